-- SPDX-License-Identifier: MIT
-- Metrics as Prometheus and as callbacks, of real caches in real nginx.
local cjson = require "cjson"
local gorge = require "gorge"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local prometheus = require "gorge.prometheus"
local stats = require "gorge.stats"
local process = helper.process

local EXAMPLE = helper.paths.root .. "/examples/metrics/"

-- Samples by name and labels; helps and types by name.
local function parse(text)
  local samples, helps, types, count = {}, {}, {}, 0
  for line in text:gmatch "([^\n]*)\n" do
    local kind, name, rest = line:match "^# (%u+) ([%w_]+) (.+)$"
    if kind then
      local list = kind == "HELP" and helps or types
      assert.is_nil(list[name], "twice: " .. line)
      list[name] = rest
    else
      local series, value = line:match "^([%w_]+%b{}) (%S+)$"
      assert.is_string(series, "not a sample: " .. line)
      assert.is_nil(samples[series], "twice: " .. series)
      samples[series] = assert(tonumber(value), line)
      local family = series:match "^[%w_]+"
      local of_histogram = family:match "^(.*)_bucket$" or family:match "^(.*)_sum$" or family:match "^(.*)_count$"
      assert.is_truthy(types[family] or types[of_histogram] == "histogram", "no TYPE before " .. line)
      count = count + 1
    end
  end
  for name in pairs(types) do
    assert.is_string(helps[name], "no HELP for " .. name)
  end
  assert.is_true(count > 0)
  return samples, types
end

local function promtool(text)
  local file = helper.temp_dir() .. "/metrics"
  process.write_file(file, text)
  return process.run { "sh", "-c", 'exec promtool check metrics < "$1"', "sh", file }
end

local function new(opts)
  opts.namespace = opts.namespace or helper.unique_name "metrics"
  opts.l1_size = "2m"
  return assert(gorge.new(opts))
end

describe("cache:prometheus", function()
  it("passes promtool, and is a check that can fail", function()
    local cache = new { redis = helper.redis().url, circuit_breaker = true }
    for i = 1, 30 do
      cache:fetch("k" .. i % 10, 60, function() return i end)
    end
    cache:fetch("bad", 60, function() return nil, "no" end)
    local status, output = promtool(cache:prometheus())
    assert.equal(0, status, output)
    assert.equal("", output)
    status = promtool((cache:prometheus():gsub("# HELP gorge_loads_total [^\n]*\n", "")))
    assert.is_not_equal(0, status)
  end)

  it("tells what stats tells, each counter of it", function()
    local cache = new { redis = helper.redis().url }
    for i = 1, 30 do
      cache:fetch("k" .. i % 10, 60, function() return i end)
    end
    cache:delete "k1"
    local told = cache:stats()
    local samples, types = parse(cache:prometheus())
    local label = ('namespace="%s",zone="%s"'):format(told.namespace, told.zone)
    local function sample(name, more)
      return samples["gorge_" .. name .. "{" .. label .. (more or "") .. "}"]
    end
    assert.equal(20, sample("hits_total", ',layer="l0"'))
    assert.equal(told.l1_misses, sample("misses_total", ',layer="l1"'))
    assert.equal(told.l2_misses, sample("misses_total", ',layer="l2"'))
    assert.equal(10, sample "loads_total")
    assert.equal(1, sample "deletes_total")
    assert.equal(told.entries, samples['gorge_entries{zone="' .. told.zone .. '"}'])
    assert.equal(told.bytes_used, samples['gorge_used_bytes{zone="' .. told.zone .. '"}'])
    assert.equal(1, sample "redis_connected")
    local counters = 0
    for name, kind in pairs(types) do
      assert.matches("^gorge_", name)
      if kind == "counter" then
        assert.matches("_total$", name)
        counters = counters + 1
      end
    end
    -- Five look-ups by layer are two families.
    assert.equal(#stats.COUNTERS - 5 + 2, counters)
    -- Every counter of the core has its name: those behind the last one are still free.
    local raw = stats.raw(cache)
    for i = #stats.COUNTERS, require("gorge.ffi.lib").GORGE_COUNTERS - 1 do
      assert.equal(0, tonumber(raw.counters[i]))
    end
  end)

  it("has real histograms: cumulative buckets, their sum and count", function()
    local cache = new {}
    local took = { 0.0005, 0.004, 0.004, 0.02 }
    gorge.run(function()
      for i, seconds in ipairs(took) do
        cache:fetch("k" .. i, 60, function() gorge.sleep(seconds) return i end)
      end
    end)
    local text = cache:prometheus()
    local samples = parse(text)
    local label = ('{namespace="%s",zone="%s"'):format(cache.options.namespace, cache.options.zone)
    local buckets, below, least = 0, 0, 0
    for line in text:gmatch "gorge_load_duration_seconds_bucket[^\n]+" do
      local le, count = line:match 'le="([^"]+)"} (%d+)$'
      le, count = le == "+Inf" and math.huge or tonumber(le), tonumber(count)
      assert.is_true(le > least and count >= below, line)
      least, below, buckets = le, count, buckets + 1
      local shorter = 0
      for _, seconds in ipairs(took) do
        shorter = shorter + (seconds < le and 1 or 0)
      end
      assert.is_true(count <= shorter, line) -- a run takes at least as long as it sleeps
    end
    assert.equal(math.huge, least)
    assert.equal(4, below)
    assert.equal(23, buckets)
    assert.equal(4, samples["gorge_load_duration_seconds_count" .. label .. "}"])
    local sum = samples["gorge_load_duration_seconds_sum" .. label .. "}"]
    assert.is_true(sum >= 0.0285 and sum < 2, tostring(sum))
    assert.is_true(math.abs(sum - cache:stats().load_latency.sum) < 1e-9)
  end)

  it("escapes labels", function()
    assert.equal([[a="1",b="\\ \" \n"]], prometheus.labels { "a", "1", "b", '\\ " \n' })
  end)

  it("is nil, \"closed\" for a closed cache", function()
    local cache = new {}
    cache:close()
    assert.same({ nil, "closed" }, { cache:prometheus() })
  end)
end)

describe("gorge.prometheus", function()
  it("tells of all open caches of the process, each namespace once", function()
    local zone = helper.unique_name "zone"
    local a = new { namespace = "a", zone = zone }
    local again = new { namespace = "a", zone = zone }
    local b = new { namespace = "b", zone = zone }
    local gone = new { namespace = "gone", zone = zone }
    gone:close()
    a:set("k", 1)
    again:set("k", 2)
    b:set("k", 3)
    local text = gorge.prometheus()
    local samples = parse(text)
    assert.equal(2, samples[('gorge_sets_total{namespace="a",zone="%s"}'):format(zone)])
    assert.equal(1, samples[('gorge_sets_total{namespace="b",zone="%s"}'):format(zone)])
    assert.is_nil(samples[('gorge_sets_total{namespace="gone",zone="%s"}'):format(zone)])
    assert.equal(2, samples[('gorge_entries{zone="%s"}'):format(zone)])
    assert.equal(0, (promtool(text)))
    samples = parse(gorge.prometheus { b })
    assert.is_nil(samples[('gorge_sets_total{namespace="a",zone="%s"}'):format(zone)])
    assert.equal(1, samples[('gorge_sets_total{namespace="b",zone="%s"}'):format(zone)])
  end)

  it("refuses what is no cache", function()
    for _, wrong in ipairs { 1, "cache", { 1 }, {} } do
      local ok, err = pcall(function() gorge.prometheus(wrong) end)
      assert.is_false(ok)
      assert.matches("metrics_spec.lua:%d+: gorge: gorge.prometheus takes a cache or an array of caches", err)
    end
  end)

  it("adds up all workers of a host", function()
    local n = node.start { options = {} }
    n:worker(0):run [[for i = 1, 10 do cache:fetch("a" .. i, 60, load) end]]
    n:worker(1):run [[for i = 1, 10 do cache:fetch("b" .. i, 60, load) end]]
    for id = 0, 1 do
      local samples = parse(n:worker(id):run [[return gorge.prometheus()]])
      assert.equal(20, samples[('gorge_loads_total{namespace="%s",zone="%s"}'):format(n.namespace, n.namespace)])
      assert.equal(2, samples[('gorge_workers{zone="%s"}'):format(n.namespace)])
    end
  end)
end)

describe("the option metrics", function()
  local function counting(opts)
    local seen = {}
    opts = opts or {}
    opts.metrics = {}
    for _, name in ipairs {
      "inc_l1_hits", "inc_l1_misses", "inc_l2_hits", "inc_l2_misses", "inc_db_fetches", "inc_db_errors",
      "observe_db_fetch_latency", "observe_l2_hit_latency",
    } do
      seen[name] = 0
      opts.metrics[name] = function(value)
        seen[name] = seen[name] + 1
        if name:match "^observe" then
          assert(type(value) == "number" and value >= 0)
          seen.last = value
        else
          assert(value == nil)
        end
      end
    end
    return new(opts), seen
  end

  it("tells of hits and misses by layer, and of fn", function()
    local url, namespace = helper.redis().url, helper.unique_name "shared"
    local other = new { redis = url, namespace = namespace, zone = helper.unique_name "other" }
    local cache, seen = counting { redis = url, namespace = namespace }
    other:set("there", 1)
    cache:fetch("there", 60, error)
    cache:fetch("there", 60, error)
    cache:get "nowhere"
    cache:fetch("new", 60, function() helper.sleep(0.011) return 1 end)
    assert.is_true(seen.last >= 0.01, tostring(seen.last))
    seen.last = nil
    assert.same({
      inc_l1_hits = 1, inc_l1_misses = 3, inc_l2_hits = 1, inc_l2_misses = 2, inc_db_fetches = 1, inc_db_errors = 0,
      observe_db_fetch_latency = 1, observe_l2_hit_latency = 1,
    }, seen)
  end)

  it("counts failures of fn, and returns what fetch returns without it", function()
    local cache, seen = counting()
    assert.same({ nil, "no" }, { cache:fetch("k", 60, function() return nil, "no" end) })
    local raised = { "structured" }
    assert.equal(raised, select(2, cache:fetch("k", 60, function() error(raised) end)))
    assert.equal("gorge: fn raised: oh", select(2, cache:fetch("k", 60, function() error("oh", 0) end)))
    assert.same({ 7, nil, "fn" }, { cache:fetch("k", 60, function(key, more) return more, nil, 5 end, nil, { args = { 7 } }) })
    assert.is_true(cache:peek("k").ttl <= 5)
    assert.same({ 7, nil, "l0" }, { cache:fetch("k") })
    assert.same({ 4, 3, 0 }, { seen.inc_db_fetches, seen.inc_db_errors, seen.inc_l2_misses })
    cache:close()
    assert.same({ nil, "closed" }, { cache:fetch("k") })
  end)

  it("raises misuse at the caller's line", function()
    local cache = counting()
    for _, misuse in ipairs {
      function() cache:fetch(1) end, function() cache:fetch("k", -1, print) end, function() cache:fetch("k", 1, 5) end,
      function() cache:fetch("k", 1, print, { {} }) end, function() cache:fetch("k", 1, print, nil, { x = 1 }) end,
      function() cache:get(1) end, function() cache:get("k", { x = 1 }) end,
    } do
      assert.matches("^[%w/_.]*metrics_spec.lua:%d+: gorge: ", select(2, pcall(misuse)))
    end
  end)

  it("survives a callback that raises, and says so once a minute", function()
    local lines = {}
    local cache = new {
      logger = function(level, message) lines[#lines + 1] = level .. " " .. message end,
      metrics = { inc_l1_hits = function() error "boo" end, inc_db_fetches = function() error {} end },
    }
    for i = 1, 20 do
      assert.equal(i > 10 and i - 10 or i, (cache:fetch("k" .. (i - 1) % 10, 60, function() return i end)))
    end
    local said = {}
    for _, line in ipairs(lines) do
      said[#said + 1] = line:match "^error gorge: metrics.*$"
    end
    assert.equal(2, #said)
    assert.matches("^error gorge: metrics.inc_db_fetches raised: a table$", said[1])
    assert.matches("^error gorge: metrics.inc_l1_hits raised: .*boo$", said[2])
  end)

  it("leaves the methods of a cache without it alone", function()
    local with, without = counting(), new {}
    local methods = getmetatable(without).__index
    assert.equal(methods.fetch, without.fetch)
    assert.equal(methods.get, without.get)
    assert.is_not_equal(methods.fetch, with.fetch)
  end)

  it("is checked", function()
    local function problem(metrics)
      return select(2, pcall(gorge.new, { metrics = metrics }))
    end
    assert.matches("option 'metrics' must be a table of functions, got true", problem(true))
    assert.matches("option 'metrics.inc_l1_hits' must be a function, got 1", problem { inc_l1_hits = 1 })
    assert.matches("unknown option 'metrics.inc_l1_hit', did you mean 'metrics.inc_l1_hits'%?", problem { inc_l1_hit = print })
  end)
end)

describe("examples/metrics", function()
  local nginx

  setup(function()
    local redis = helper.redis()
    local conf = process.read_file(EXAMPLE .. "nginx.conf")
    conf = conf:gsub("redis://127.0.0.1:6379/0", redis.url):gsub("127.0.0.1:8080", "127.0.0.1:{{port}}")
      :gsub("http {", [[http {
        access_log off;
        lua_package_path "{{lua_path}};{{root}}/spec/support/?.lua;;";
        client_body_temp_path {{prefix}}/tmp; proxy_temp_path {{prefix}}/tmp; fastcgi_temp_path {{prefix}}/tmp;
        uwsgi_temp_path {{prefix}}/tmp; scgi_temp_path {{prefix}}/tmp;]], 1)
    nginx = helper.nginx { conf = conf }
    for i = 0, 9 do
      for _ = 1, 5 do
        assert.equal(200, nginx:get("/users/" .. i).status)
        assert.equal(200, nginx:get("/orders/" .. i).status)
      end
    end
  end)

  it("serves gorge's own metrics of both caches", function()
    local response = nginx:get "/metrics"
    assert.matches("^text/plain; version=0.0.4", response.headers["content-type"])
    local status, output = promtool(response.body)
    assert.equal(0, status, output)
    local samples = parse(response.body)
    for _, name in ipairs { "users", "orders" } do
      assert.equal(9 + 5, samples[('gorge_loads_total{namespace="%s",zone="%s"}'):format(name, name)])
      assert.equal(5, samples[('gorge_load_errors_total{namespace="%s",zone="%s"}'):format(name, name)])
    end
  end)

  it("hands what happens to callbacks", function()
    local body = nginx:get("/metrics/callbacks").body
    assert.matches('db_fetches_total{cache="orders"} 14\n', body)
    assert.matches('db_errors_total{cache="orders"} 5\n', body)
    assert.matches('db_fetch_duration_seconds_count{cache="orders"} 14\n', body)
    assert.matches('cache_hits_total{cache="orders",layer="l1"} 36\n', body)
    assert.same({}, nginx:log_lines())
  end)

  it("has a dashboard of metrics that there are", function()
    local dashboard = cjson.decode(process.read_file(EXAMPLE .. "grafana.json"))
    local cache = new { redis = helper.redis().url, circuit_breaker = true }
    helper.wait_until(function()
      cache:set("k", 1)
      return cache:stats().lag
    end)
    local _, types = parse(cache:prometheus())
    local used, panels = {}, 0
    local function collect(text)
      for name in text:gmatch "gorge_[%w_]+" do
        local family = types[name] and name or name:gsub("_bucket$", "")
        assert.is_string(types[family], "there is no metric " .. name)
        used[family] = true
      end
    end
    for _, panel in ipairs(dashboard.panels) do
      panels = panels + 1
      for _, target in ipairs(panel.targets) do
        collect(target.expr)
      end
    end
    for _, variable in ipairs(dashboard.templating.list) do
      collect(variable.query)
    end
    collect(process.read_file(EXAMPLE .. "README.md"))
    assert.is_true(panels > 10)
    assert.is_true(used.gorge_load_duration_seconds)
  end)
end)
