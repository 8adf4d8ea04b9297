-- SPDX-License-Identifier: MIT
-- What README.md says in tables and inline code, held against the code: options, methods, fields, phases, messages, figures.
local helper = require "spec.helper"
local markdown = require "spec.support.markdown"
local gorge = require "gorge"
local options = require "gorge.options"
local process = helper.process
local paths = helper.paths

local text = assert(process.read_file(paths.root .. "/README.md"))
local page = markdown.parse(text)

-- Messages that were really seen, for the comparison at the end.
local seen = {}

local function note(message)
  assert.is_string(message)
  seen[#seen + 1] = message
  return message
end

local function sorted(list)
  table.sort(list)
  return list
end

local function keys(map)
  local list = {}
  for name in pairs(map) do
    list[#list + 1] = name
  end
  return sorted(list)
end

local function upvalue(fn, name)
  for i = 1, 60 do
    local found, value = debug.getupvalue(fn, i)
    if found == name then
      return value
    elseif not found then
      break
    end
  end
  error("no upvalue " .. name)
end

local RULES = upvalue(options.parse, "RULES")
local REDIS_RULES = upvalue(RULES.redis.check, "REDIS_RULES")
local METRICS_RULES = upvalue(RULES.metrics.check, "METRICS_RULES")
local TLS_RULES = upvalue(REDIS_RULES.tls.check, "RULES")
local BREAKER_RULES = upvalue(RULES.circuit_breaker.check, "BREAKER_RULES")
local ORIGIN_RULES = upvalue(RULES.origin.check, "ORIGIN_RULES")

-- `"64m"` or `300` in a cell; nil when there is no such thing.
local function literal(cell)
  local code = cell:match "^`(.-)`"
  if code then
    return assert(loadstring("return " .. code))()
  end
end

local function first_column(found)
  local names = {}
  for i, row in ipairs(found.rows) do
    names[i] = row[1]:match "^`([%w_]+)`$"
    assert(names[i], ("line %d: %q is not a name"):format(found.line, row[1]))
  end
  return names
end

local function problem_of(opts)
  local ok, err = pcall(options.parse, opts, 1)
  return not ok and err or nil
end

-- A table of options whose rows are name, default, what is accepted. `wrap` puts one option where it belongs.
local function check_options(found, rules, defaults, wrap)
  assert.same(keys(rules), sorted(first_column(found)))
  for _, row in ipairs(found.rows) do
    local name, default = row[1]:match "`(.-)`", literal(row[2])
    if default ~= nil then
      assert.same(defaults[name], rules[name].check(default, name), name .. ": not its default")
      assert.is_nil(problem_of(wrap(name, default)))
    else
      assert.is_nil(rules[name].default, name .. " has a default")
    end
    local above, least, most = row[3]:match "^(>?) ?([%d.]+) to ([%d.]+)$"
    if least then
      least, most = tonumber(least), tonumber(most)
      assert.is_nil(problem_of(wrap(name, most)))
      assert.matches(name, problem_of(wrap(name, most + 1)) or "accepts more than " .. most, 1, true)
      if above == ">" then
        assert.is_nil(problem_of(wrap(name, least + 1e-6)))
        assert.matches(name, problem_of(wrap(name, least)) or "accepts " .. least, 1, true)
      else
        assert.is_nil(problem_of(wrap(name, least)))
        assert.matches(name, problem_of(wrap(name, least - 1)) or "accepts " .. least - 1, 1, true)
      end
    end
  end
end

describe("README.md, options", function()
  it("lists the options of gorge.new, all of them, with defaults and ranges", function()
    local defaults = options.parse {}
    check_options(markdown.table_under(page, "Options", 1), RULES, defaults, function(name, value) return { [name] = value } end)
    assert.equal(defaults.namespace, defaults.zone)
    assert.is_nil(problem_of { l1_size = "2m" })
    assert.is_nil(problem_of { l1_size = "1024g" })
    assert.matches("l1_size", problem_of { l1_size = 2 * 1024 * 1024 - 1 })
    assert.matches("l1_size", problem_of { l1_size = "1025g" })
    assert.is_nil(problem_of { namespace = ("n"):rep(64) })
    assert.matches("namespace", problem_of { namespace = ("n"):rep(65) })
    assert.is_nil(problem_of { namespace = "_a-b.c:d" })
    assert.matches("namespace", problem_of { namespace = "-a" })
  end)

  it("lists the words that an option takes", function()
    for _, row in ipairs(markdown.table_under(page, "Options", 1).rows) do
      local name = row[1]:match "`(.-)`"
      if name == "on_lock_timeout" or name == "serializer" or name == "host" then
        local count = 0
        for word in row[3]:gmatch '`"(%w+)"`' do
          assert.is_nil(problem_of { [name] = word })
          count = count + 1
        end
        local _, accepted = problem_of({ [name] = "no such word" }):match "one of (.-)[,t]":gsub('"', "")
        assert.is_true(count > 1 and accepted ~= nil)
        for word in problem_of({ [name] = "no such word" }):match "must be (.*) got":gmatch '"(%w+)"' do
          assert.matches('`"' .. word .. '"`', row[3], 1, true)
        end
      end
    end
  end)

  it("lists the fields of origin", function()
    local defaults = options.parse { origin = { max_concurrency = 1 } }
    check_options(markdown.table_under(page, "Protecting the database"), ORIGIN_RULES, defaults.origin, function(name, value)
      return { origin = { max_concurrency = 1, [name] = value } }
    end)
    assert.equal("gorge: option 'origin' needs max_concurrency or max_failures", problem_of({ origin = {} }):match "gorge: .*")
  end)

  it("lists the fields of redis and circuit_breaker", function()
    local defaults = options.parse { redis = { host = "h" }, circuit_breaker = true }
    check_options(markdown.table_under(page, "Options", 2), BREAKER_RULES, defaults.circuit_breaker, function(name, value)
      return { circuit_breaker = { [name] = value } }
    end)
    check_options(markdown.table_under(page, "Options", 3), REDIS_RULES, defaults.redis, function(name, value)
      return { redis = { host = "h", [name] = value } }
    end)
    local tls = options.parse({ redis = "rediss://h" }).redis.tls
    check_options(markdown.table_under(page, "Options", 4), TLS_RULES, tls, function(name, value)
      return { redis = { host = "h", tls = { [name] = value } } }
    end)
    assert.equal(6379, defaults.redis.port)
    assert.is_nil(problem_of { redis = { path = "/" .. ("p"):rep(106) } })
    assert.matches("redis.path", problem_of { redis = { path = "/" .. ("p"):rep(107) } })
    assert.is_nil(problem_of { redis = { host = "h", password = ("p"):rep(1024) } })
    assert.matches("redis.password", problem_of { redis = { host = "h", password = ("p"):rep(1025) } })
    assert.matches("redis.password", problem_of { redis = { host = "h", username = "u" } })
    assert.same({ "h", 6379, "u", "p:/?#@%", 3 }, (function()
      local redis = options.parse({ redis = "redis://u:p%3A%2F%3F%23%40%25@h/3" }).redis
      return { redis.host, redis.port, redis.username, redis.password, redis.db }
    end)())
    assert.same({ "/run/r.sock", "p", 3 }, (function()
      local redis = options.parse({ redis = "unix://:p@/run/r.sock?db=3" }).redis
      return { redis.path, redis.password, redis.db }
    end)())
  end)

  it("names the hosts that are planned, which are refused by name", function()
    assert.matches('\n`host = "cqueues"` and `"luv"` are planned, and refused by name %(`is not supported by this version`%)', text)
    for _, name in ipairs { "cqueues", "luv" } do
      assert.matches("option 'host': \"" .. name .. "\" is not supported by this version", problem_of { host = name }, 1, true)
    end
  end)

  it("lists the options of one call", function()
    local found = markdown.table_under(page, "Options of one call")
    assert.same(keys(upvalue(options.parse_call, "call_problem") and upvalue(upvalue(options.parse_call, "call_problem"), "CALL_KNOWN")),
      sorted(first_column(found)))
    assert.is_true(pcall(options.parse_call, { args = { n = 200 } }))
    assert.is_false(pcall(options.parse_call, { args = { n = 201 } }))
  end)
end)

describe("README.md, methods", function()
  local function documented(pattern)
    local names = {}
    for _, heading in ipairs(page.headings) do
      names[#names + 1] = heading.text:match(pattern)
    end
    return sorted(names)
  end

  it("lists the functions of the module", function()
    local functions = {}
    for name, value in pairs(gorge) do
      functions[#functions + 1] = type(value) == "function" and name or nil
    end
    assert.same(sorted(functions), documented "^gorge%.(%w+)$")
    assert.equal(gorge, require "resty.gorge")
    assert.is_string(gorge._VERSION)
  end)

  it("lists the methods of a cache", function()
    local cache = assert(gorge.new { namespace = helper.unique_name(), l1_size = "2m" })
    local methods = {}
    for name, value in pairs(getmetatable(cache).__index) do
      if type(value) == "function" and name:sub(1, 1) ~= "_" then
        methods[#methods + 1] = name
      end
    end
    assert.same(sorted(methods), documented "^cache:([%w_]+)$")
  end)

  it("lists the fields of stats and peek", function()
    local cache = assert(gorge.new { namespace = helper.unique_name(), l1_size = "2m" })
    local stats = cache:stats()
    stats.redis_error = "" -- nil while nothing is wrong
    stats.lag = 0 -- nil without Redis
    stats.master = "" -- nil without sentinels
    stats.nodes = {} -- nil without a cluster
    local names = {}
    for _, row in ipairs(markdown.table_under(page, "cache:stats").rows) do
      for _, name in ipairs(markdown.code_spans(row[1])) do
        names[#names + 1] = name
      end
    end
    assert.same(keys(stats), sorted(names))
    assert.same({ "count", "p50", "p95", "p99", "sum" }, keys(stats.load_latency))
    cache:set("k", "v")
    local info = cache:peek "k"
    assert.is_true(info.stale == false and info.source == "l1")
    for name in pairs(info) do
      assert.matches(name .. " =", text:match "### cache:peek.-###", 1, true)
    end
  end)

  it("lists the fields of explain", function()
    local redis = helper.redis()
    local cache = assert(gorge.new { namespace = helper.unique_name(), l1_size = "2m", redis = redis.url })
    local told, there = nil, {}
    local function note_fields(prefix, list)
      for name, value in pairs(list) do
        if type(name) == "string" then
          there[prefix .. name] = true
        end
        if type(value) == "table" then
          note_fields(type(name) == "string" and name .. "." or prefix, value)
        end
      end
    end
    cache:fetch("k", 0.05, function()
      told = cache:explain "k"
      note_fields("", told)
      return "v"
    end, "t", { stale_if_error = 60 })
    cache:invalidate_tags "t"
    helper.sleep(0.06)
    note_fields("", cache:explain "k")
    cache:close()
    local rows = markdown.table_under(page, "cache:explain").rows
    local documented_fields = {}
    for _, row in ipairs(rows) do
      local names = markdown.code_spans(row[1])
      for _, name in ipairs(names) do
        documented_fields[name] = true
        for field in (row[2]:match "{(.-)}" or ""):gmatch "([%w_]+) =" do
          documented_fields[name .. "." .. field] = true
        end
      end
    end
    documented_fields["lease.ttl"], there["lease.ttl"] = true, true
    for name in pairs(seen) do
      local layer, field = name:match "^(l2)%.(.+)$" -- the same as of L1, and what is said of it
      if layer and field ~= "error" and field ~= "why" then
        assert.is_true(documented_fields["l1." .. field], name)
      elseif not layer then
        assert.is_true(documented_fields[name], name .. " is not documented")
      end
    end
    for name in pairs(documented_fields) do
      assert.is_true(there[name] or name == "l1.past", name .. " does not exist")
    end
  end)

  it("lists the metrics, all of them, with their labels", function()
    local redis = helper.redis()
    local cache = assert(gorge.new { namespace = helper.unique_name(), l1_size = "2m", redis = redis.url, circuit_breaker = true,
      origin = { max_failures = 1 } })
    helper.wait_until(function() return cache:set("k", 1) and cache:stats().lag end)
    local exposition, listed, there = cache:prometheus(), {}, {}
    for _, row in ipairs(markdown.table_under(page, "Metrics", 1).rows) do
      local name, labels = row[1]:match "^`(.-)`$", markdown.code_spans(row[3])
      listed[name] = row[2] .. " " .. table.concat(labels, " ") .. " " .. row[4]
    end
    for name, kind in exposition:gmatch "# TYPE (%S+) (%S+)\n" do
      local of_first = ("\n" .. exposition):match("\n" .. name .. "[_bucket]*(%b{})"):gsub(',le=".-"', "")
      local labels = {}
      for label in of_first:gmatch '([%w_]+)="' do
        labels[#labels + 1] = label
      end
      local help = exposition:match("# HELP " .. name .. " ([^\n]*)")
      there[name] = kind .. " " .. table.concat(labels, " ") .. " " .. help:gsub("%.$", "")
    end
    -- only with sentinels; spec/redis/sentinel_spec.lua looks at it there
    local source = process.read_file(paths.root .. "/lua/gorge/prometheus.lua")
    there.gorge_redis_master = "gauge namespace zone master " .. source:match 'add%(exposition, "redis_master", "gauge", "(.-)%."'
    -- only with a cluster; spec/nginx/cluster_spec.lua looks at them there
    for name, help in source:gmatch 'add%(exposition, "(redis_node_[%l_]+)", "gauge", "(.-)%."' do
      there["gorge_" .. name] = "gauge namespace zone node " .. help
    end
    assert.same(there, listed)
  end)

  it("lists the events", function()
    local source = process.read_file(paths.root .. "/lua/gorge/events.lua")
    local there, listed = {}, {}
    for name in source:gmatch 'tell%(cache, "([%l_]+)"' do
      there[name] = true
    end
    for name in source:match "local COUNTED = (%b{})":gmatch '{ "([%l_]+)"' do
      there[name] = true
    end
    for _, row in ipairs(markdown.table_under(page, "Events").rows) do
      for _, name in ipairs(markdown.code_spans(row[1])) do
        listed[name] = true
      end
    end
    assert.same(keys(there), keys(listed))
  end)

  it("lists the options of the status page", function()
    local rules = upvalue(require("gorge.status").serve, "RULES")
    check_options(markdown.table_under(page, "Status page"), rules, { title = "gorge", refresh = 2, hot_keys = 0 }, function() return {} end)
  end)

  it("lists the callbacks of the option metrics", function()
    local names = {}
    for _, row in ipairs(markdown.table_under(page, "Callbacks").rows) do
      for _, span in ipairs(markdown.code_spans(row[1])) do
        names[#names + 1] = span:match "^[%w_]+"
      end
    end
    assert.same(keys(METRICS_RULES), sorted(names))
  end)

  it("bounds keys, tags and ttls as it says", function()
    local cache = assert(gorge.new { namespace = helper.unique_name(), l1_size = "2m" })
    assert.is_true(cache:set(("k"):rep(8192), 1))
    assert.is_nil((cache:set(("k"):rep(8193), 1)))
    assert.is_true(cache:set("k", 1, 315360000, ("t"):rep(255)))
    assert.has_error(function() cache:set("k", 1, 315360001) end)
    assert.has_error(function() cache:set("k", 1, 1, ("t"):rep(256)) end)
    local tags = {}
    for i = 1, 40 do
      tags[i] = "t" .. i
    end
    assert.is_true(cache:invalidate_tags(tags))
    assert.has_error(function() cache:set("k", 1, 1, tags) end)
  end)

  it("knows the limits of a zone", function()
    local zone = helper.unique_name "zone"
    local function another(i)
      return gorge.new { namespace = "n" .. i, zone = zone, l1_size = "2m" }
    end
    for i = 1, 32 do
      assert(another(i))
    end
    assert.matches("too many namespaces", select(2, another(33)))
    assert.matches("GORGE_WORKERS = 128", process.read_file(paths.root .. "/core/shm/zone.h"), 1, true)
  end)
end)

-- Phases -----------------------------------------------------------------------------------------------------------------

local every = require "spec.nginx.every_phase"

-- The calls of a row of the second table, as cells of spec/nginx/every_phase.lua.
local CALLS = {
  ["what L0 or L1 has"] = { "hit", "hit, alone", "hit, with options", "peek" },
  ["`stats`"] = { "stats", "prometheus" },
  ["what it does not have"] = { "fetch of what Redis has", "get of what Redis has", "fetch of what nobody has", "fetch_many" },
  ["with `blocking`"] = { "the same, blocking", "get, blocking", "fn, blocking", "fetch_many, blocking", "explain, blocking" },
  ["`set`"] = { "set", "touch", "delete", "invalidate_tags", "clear" },
  ["`update`"] = { "update" },
  ["`explain`"] = { "explain" },
  ["without Redis"] = { "fn, alone", "fetch_many, alone", "set, alone", "delete, alone", "update, alone", "explain, alone" },
}

-- What a column says, and what cells tell then.
local SAYS = {
  ["yes"] = function(told) return not told:find("would block", 1, true) and not told:find("gorge:", 1, true) end,
  ["`would block`"] = function(told) return told:find("would block", 1, true) and not told:find(";", 1, true) end,
  ["on this host, then `would block`"] = function(told) return told:find("would block.*; this host is done") end,
  ["nothing is changed, `would block`"] = function(told) return told:find("would block.*; nothing is changed") end,
  ["without Redis, so `fn` runs"] = function(told) return told == "v fn" or told == "v fn, v fn" or told == "nil nil" end,
  ["of this host alone"] = function(told) return told:find("^not asked") end,
  ["on this host, not in Redis"] = function(told) return told:find("done on this host, but not in Redis: Redis cannot be reached", 1, true) end,
}

describe("README.md, phases", function()
  local results

  setup(function()
    results = every.run()
    for _, told in pairs(results) do
      local message = told:match "^nil (would block: .*)$"
      if message then
        note(message)
      end
    end
  end)

  it("are those that are tried, in the rows in which they stand", function()
    local found = markdown.table_under(page, "Phases", 1)
    assert.equal(#every.ROWS, #found.rows)
    for i, row in ipairs(found.rows) do
      assert.same(sorted { unpack(every.ROWS[i]) }, sorted(markdown.code_spans(row[1])))
      assert.equal("yes", row[2])
    end
  end)

  it("do with each call what the table says", function()
    local rows, cells = markdown.table_under(page, "Phases", 2).rows, {}
    for _, cell in ipairs(every.CELLS) do
      cells[cell[1]] = cell
    end
    local count = 0
    for _, row in ipairs(rows) do
      local calls
      for words, list in pairs(CALLS) do
        if row[1]:find(words, 1, true) then
          assert.is_nil(calls, row[1])
          calls = list
        end
      end
      assert.is_table(calls, "nothing is known of " .. row[1])
      for i = 1, #every.ROWS do
        local says, tried = row[1 + i], false
        for _, name in ipairs(calls) do
          for _, phase in ipairs(every.ROWS[i]) do
            if every.expected(cells[name], i, phase) then
              local fits = assert(SAYS[says], says)
              assert.is_truthy(fits(results[phase .. "/" .. name]), ("%s in %s: %s"):format(name, phase, results[phase .. "/" .. name]))
              count, tried = count + 1, true
            end
          end
        end
        assert.equal(tried, says ~= "-", row[1])
      end
    end
    assert.equal(8, #rows)
    assert.is_true(count > 330, count)
  end)

  it("in the first row are those in which the package waits", function()
    local source = process.read_file(paths.root .. "/lua/gorge/hosts/nginx.lua"):match "local CAN_YIELD = {(.-)}"
    local phases = {}
    for name in source:gmatch "([%w_]+) = true" do
      phases[#phases + 1] = name ~= "preread" and name or nil -- of the stream subsystem
    end
    assert.same(sorted(phases), sorted { unpack(every.ROWS[1]) })
  end)
end)

-- Messages ---------------------------------------------------------------------------------------------------------------

local function new(opts)
  opts.namespace = opts.namespace or helper.unique_name()
  opts.l1_size = opts.l1_size or "2m"
  return assert(gorge.new(opts))
end

local function raised(fn)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  return note(err)
end

local function returned(value, err)
  assert.is_nil(value)
  return note(err)
end

--- What `ask` returns while the key is being loaded, which ends after it.
local function while_loading(cache, key, ask)
  local value, err
  gorge.run(function()
    local asked, deadline = false, helper.now() + 10
    gorge.spawn(function()
      cache:fetch(key, 60, function()
        while not asked and helper.now() < deadline do
          gorge.sleep(0.01)
        end
        return 1
      end)
    end)
    gorge.sleep(0.01)
    value, err = ask()
    asked = true
  end)
  return value, err
end

describe("README.md, failures", function()
  local function down()
    return "redis://127.0.0.1:" .. helper.net.free_port()
  end

  it("come with the messages that are quoted", function()
    local cache = new { redis = down() }
    returned(cache:delete "k")
    returned(cache:update("user:101", 60, print))
    local broken = new { redis = down(), circuit_breaker = { max_failures = 1 } }
    broken:delete "k"
    returned(broken:set("k", 1))
    local redis = helper.redis()
    redis:command("REPLICAOF", "127.0.0.1", "1")
    returned(new({ redis = redis.url }):set("k", 1))
    redis:command("REPLICAOF", "NO", "ONE")
    local waiting = new { redis = redis.url }
    waiting:get "k"
    redis:pause()
    returned(waiting:set("k", 1))
    redis:resume()

    local alone = new { wait_timeout = 0.05, on_lock_timeout = "error" }
    returned(alone:fetch("k", 60, function() error("...", 0) end))
    returned(alone:fetch("user:101", 60, function() return { roles = { 1, 2, print } } end))
    local typed = new { schema = { roles = { "string" } } }
    returned(typed:fetch("user:101", 60, function() return { roles = { "a", 5 } } end))
    returned(alone:fetch("user:101", 60, function() return 1, nil, { tll = 1 } end))
    returned(alone:set("", 1))
    returned(alone:get(("k"):rep(8193)))
    local bounded = new { origin = { max_concurrency = 1, max_failures = 1 }, wait_timeout = 0.05 }
    returned(while_loading(bounded, "slow", function() return bounded:fetch("user:101", 60, print) end))
    bounded:fetch("k", 60, error)
    returned(bounded:fetch("user:101", 60, print))
    local many = {}
    for i = 1, 1001 do
      many[i] = "k" .. i
    end
    returned(alone:fetch_many(many, 60, print))
    note(select(2, alone:fetch_many({ "k" }, 60, function() end)).k)
    raised(function() alone:set("k", 1, -1) end)
    raised(function() gorge.new { l1_sizee = "1m" } end)
    returned(while_loading(alone, "user:101", function() return alone:fetch("user:101", 60, print) end))
    local _
    _ = new { namespace = "my-app", l1_size = "64m" }
    returned(gorge.new { namespace = "my-app", l1_size = "128m" })
    returned(gorge.new { namespace = "my-app", redis = "redis://10.0.0.5:6379/0" })
    alone:close()
    returned(alone:get "k")
    assert.is_nil(alone:peek "k")
    assert.is_true(alone:close())

    local _, output = helper.luajit('print(pcall(require, "gorge"))', { env = { GORGE_LIBRARY = false, LUA_CPATH = "/nowhere/?.so" } })
    note(output)
  end)

  -- What a pattern of the README stands for: `...` is anything, figures and keys of waits differ.
  local function as_pattern(quoted)
    return (quoted:gsub("%p", "%%%0"):gsub("%%%.%%%.%%%.", ".-"):gsub("waited %d+ s", "waited [%%d.]+ s")
      :gsub("%d+ runs are", "%%d+ runs are"))
  end

  it("and with no other ones", function()
    local count = 0
    for _, line in ipairs(page.prose) do
      for _, span in ipairs(markdown.code_spans(line.text)) do
        local quoted = span:match '^nil, "(.*)"$' or span:match '^"(gorge: .*)"$' or span:match "^gorge: .*$"
          or span:match "^Redis answered with an error.*$" or span:match "^timed out$"
        if quoted then
          local pattern = as_pattern(quoted:gsub('\\"', '"'))
          local found
          for _, message in ipairs(seen) do
            found = found or message:match(pattern)
          end
          assert.is_truthy(found, ("line %d: nobody says %s"):format(line.line, quoted))
          count = count + 1
        end
      end
    end
    assert.is_true(count >= 15, count .. " messages are quoted")
  end)

  it("name the caller's line when they are raised", function()
    local cache = new {}
    for _, misuse in ipairs {
      function() cache:fetch(1) end, function() cache:set("k", 1, 0) end, function() gorge.new { zoen = 1 } end,
    } do
      assert.matches("^spec/nginx/readme_facts_spec.lua:%d+: gorge: ", (raised(misuse):gsub("^.*/spec/", "spec/")))
    end
  end)

  it("carry a write out later that could not be told", function()
    local redis = helper.redis()
    local cache = new { redis = redis.url }
    assert.equal("fn", select(3, cache:fetch("k", 60, function() return "old" end)))
    redis:pause()
    helper.wait_until(function() -- the connection is given up
      cache:get "nothing"
      return cache:stats().redis == "down"
    end)
    assert.is_nil((cache:delete "k"))
    assert.is_nil((cache:get "k"))
    redis:resume()
    helper.wait_until(function()
      cache:get "nothing"
      return cache:stats().redis == "ready"
    end)
    assert.is_nil((cache:get "k")) -- not even while it waits
    helper.wait_until(function() return cache:stats().queued == 0 end)
    assert.is_nil((cache:get "k"))
    helper.wait_until(function() return cache:stats().replayed > 0 end) -- counted after it is done
  end)
end)

-- Figures ----------------------------------------------------------------------------------------------------------------

describe("README.md, figures", function()
  it("how much 64 MB hold", function()
    local cache = new { l1_size = "64m", l1_objects = 0 }
    local claimed = tonumber((text:match "holds about ([%d,]+) values of 100 bytes under keys of 20 bytes":gsub(",", "")))
    local value = ("v"):rep(100)
    for i = 1, claimed * 0.9 do
      cache:set(("key:%016d"):format(i), value, 3600)
    end
    assert.is_true(cache:stats().entries > claimed * 0.9 * 0.9999) -- the index has no place for one now and then
    for i = claimed * 0.9 + 1, claimed * 1.2 do
      cache:set(("key:%016d"):format(i), value, 3600)
    end
    assert.is_true(math.abs(cache:stats().entries / claimed - 1) < 0.05)
  end)

  it("how large a value may be", function()
    local megabytes, kilobytes = text:match "largest single value is about ([%d.]+) MB in a zone of 64 MB, (%d+) kB in one of up to 16 MB"
    local function takes(size, bytes)
      local cache = new { l1_size = size, l1_objects = 0 }
      cache:set("k", ("v"):rep(bytes))
      return cache:peek "k" ~= nil
    end
    assert.is_true(takes("64m", megabytes * 1e6))
    assert.is_false(takes("64m", megabytes * 1.15e6))
    for _, size in ipairs { "2m", "16m" } do
      assert.is_true(takes(size, kilobytes * 1e3), size)
      assert.is_false(takes(size, kilobytes * 1.15e3), size)
    end
  end)

  it("a reload with another size is refused, and nginx goes on", function()
    local function server(size)
      return {
        http = ('init_by_lua_block { cache = assert(require("gorge").new { l1_size = "%s" }) }'):format(size),
        server = "location / { content_by_lua_block { ngx.print(cache:stats().zone_size) } }",
        workers = 1,
      }
    end
    local nginx = helper.nginx(server "2m")
    assert.equal("2097152", nginx:get("/").body) -- an nginx that answers is one that takes signals
    nginx:configure(server "4m")
    nginx.process:kill(process.SIGHUP)
    nginx:wait_log "exists with a size of 2097152 bytes, asked for 4194304"
    assert.equal("2097152", nginx:get("/").body)
  end)
end)

-- The page itself --------------------------------------------------------------------------------------------------------

describe("README.md, the rest", function()
  it("names packages that the Makefile installs as well", function()
    local scripts = process.read_file(paths.root .. "/core/tools/deps.sh")
    local named = {}
    for _, row in ipairs(markdown.table_under(page, "Requirements").rows) do
      for _, package in ipairs(markdown.code_spans(row[3])) do
        assert.matches("%f[%w-]" .. package:gsub("%p", "%%%0") .. "%f[^%w.-]", scripts)
        named[#named + 1] = package
      end
    end
    local install
    for _, block in ipairs(page.blocks) do
      install = install or block.code:match "^sudo apt%-get install (.*)$"
    end
    local installed = {}
    for word in install:gsub("\\\n", " "):gmatch "%f[^%s]%l[%w.-]+" do
      installed[#installed + 1] = word
    end
    assert.same(sorted(named), sorted(installed))
  end)

  it("links to what exists", function()
    local anchors = {}
    for _, heading in ipairs(page.headings) do
      anchors["#" .. markdown.anchor(heading.text)] = true
    end
    local count = 0
    for _, line in ipairs(page.prose) do
      for target in line.text:gmatch "%]%((.-)%)" do
        count = count + 1
        if target:match "^#" then
          assert.is_true(anchors[target], "no heading for " .. target)
        else
          assert.equal(0, (process.run { "test", "-e", paths.root .. "/" .. target }), target)
        end
      end
    end
    assert.is_true(count > 10)
    for _, heading in ipairs(page.headings) do
      if heading.level == 2 then
        assert.matches("](#" .. markdown.anchor(heading.text) .. ")", text, 1, true)
      end
    end
  end)

  it("compares by figures that were measured", function()
    local results = require("cjson").decode(process.read_file(paths.root .. "/spec/bench/results.json"))
    local figures = require "spec.bench.figures"
    local known = {} -- by row, and by who was measured
    for _, row in ipairs(results.rows) do
      for _, line in ipairs(row.lines) do
        known[line.name] = known[line.name] or {}
        known[line.name][line.of.name] = figures.quantity(line.of.median, line.unit)
        if line.against then
          known[line.name][line.against.name] = figures.quantity(line.against.median or line.against.figure, line.unit)
        end
      end
    end
    local measured = {
      ["one hot key, the worker's own copy"] = "fetch, L0: one hot key", ["one hot key of 100 B in shared memory"] = "fetch, L1: one hot key, 100 B",
      ["the same, two workers together"] = "fetch, L1: one hot key, 100 B, sum", ["a small table in shared memory"] = "fetch, L1: small table",
      ["95 % reads, 5 % writes, two workers together"] = "95 % fetch + 5 % set, zipf, L0 and L1, sum",
      ["memory of an entry, 20 B + 100 B"] = "memory per entry, 20 B + 100 B",
      ["GETs in Redis, two workers, 50 in flight each"] = "L2 hits, 2 workers x 50 in flight", ["one GET after another"] = "L2 hits, one after another",
    }
    local columns, count = { "gorge", "ngx.shared", "mlcache", "lua-resty-redis" }, 0
    for _, row in ipairs(markdown.table_under(page, "Comparison").rows) do
      for i, name in ipairs(columns) do
        local figure = row[1 + i]:match "^%d[%d.]* [%a/]+"
        if figure then
          local of_row = assert(known[measured[row[1]]], row[1] .. " was not measured")
          assert.equal(of_row[name] or of_row[name .. "+cjson"], figure, row[1])
          count = count + 1
        end
      end
    end
    assert.equal(17, count)
  end)

  it("lists the folders of the tree", function()
    local listed = {}
    for _, row in ipairs(markdown.table_under(page, "Development").rows) do
      for _, folder in ipairs(markdown.code_spans(row[1])) do
        listed[folder] = true
        assert.equal(0, (process.run { "test", "-d", paths.root .. "/" .. folder }), folder)
      end
    end
    local _, folders = process.run { "find", "core", "-mindepth", "1", "-maxdepth", "1", "-type", "d", cwd = paths.root }
    for folder in folders:gmatch "[^\n]+" do
      assert.is_true(listed[folder], folder .. " is not listed")
    end
  end)

  it("shows the commands that people look for", function()
    for _, command in ipairs { "make demo", "make demo REDIS=none", "make serve", "make test" } do
      assert.matches("\n" .. command .. "%f[%s]", text)
    end
  end)
end)
