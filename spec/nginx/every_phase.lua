-- SPDX-License-Identifier: MIT
--- What a cache does in which phase of nginx: the phases, what is tried in each, and what comes of it. One nginx goes through all phases, another node has
--- stored something in Redis before. The table of README.md says the same.
local helper = require "spec.helper"
local process = helper.process

local _M = {}

--- How the phases differ, as the rows of README.md's table: those that yield, those that cannot, and two that are special.
_M.ROWS = {
  { "rewrite", "server_rewrite", "access", "content", "timer", "ssl_cert" },
  { "set", "header_filter", "body_filter", "log", "balancer", "init_worker", "ssl_client_hello", "ssl_session_fetch", "ssl_session_store" },
  { "init" },
  { "exit_worker" },
}

local DONE = "; this host is done, Redis was told without waiting for its answer"

-- Of each: its name, the code (`key` is nobody else's, `there` is in Redis), and what it tells in a phase of each row; a function of the phase's name, or text.
-- What comes after "not done" is a pattern.
local function would_block(rest)
  return function(phase) return "nil would block: the phase '" .. phase .. "' cannot yield" .. (rest or "") end
end

local function away(what)
  return "nil gorge: " .. what .. ": done on this host, but not in Redis: Redis cannot be reached"
end

--- Cells: { name, code, yields, cannot yield, init, exit_worker }; false: not tried there.
_M.CELLS = {
  { "hit", [[warm(key) return near(cache:fetch(key, 60, load))]], "w near", "w near", "w near", false },
  { "hit, alone", [[alone:set(key, "w", 60) return near(alone:get(key))]], "w near", "w near", "w near", "w near" },
  { "hit, with options", [[warm(key) return near(cache:get(key, { blocking = true, clone = true }))]], "w near", "w near", "w near", false },
  { "fetch of what Redis has", [[return show(cache:fetch(there, 60, load))]], "theirs l2", would_block(), "v fn", false },
  { "the same, blocking", [[return show(cache:fetch(there, 60, load, nil, BLOCKING))]], "theirs l2", "theirs l2", "theirs l2", false },
  { "get of what Redis has", [[return show(cache:get(there))]], "theirs l2", would_block(), "nil nil", false },
  { "get, blocking", [[return show(cache:get(there, BLOCKING))]], "theirs l2", "theirs l2", "theirs l2", false },
  { "fetch of what nobody has", [[return show(cache:fetch(key, 60, load))]], "v fn", would_block(), "v fn", false },
  { "fn, blocking", [[return show(cache:fetch(key, 60, load, nil, BLOCKING))]], "v fn", "v fn", "v fn", false },
  { "fn, alone", [[return show(alone:fetch(key, 60, load))]], "v fn", "v fn", "v fn", "v fn" },
  { "fetch_many", [[return show_many(key, there, cache:fetch_many({ there, key }, 60, load_many))]], "theirs l2, v fn",
    function(phase) return (would_block()(phase) .. ", " .. would_block()(phase)):gsub("nil would", "would") end, "v fn, v fn", false },
  { "fetch_many, blocking", [[return show_many(key, there, cache:fetch_many({ there, key }, 60, load_many, nil, BLOCKING))]],
    "theirs l2, v fn", "theirs l2, v fn", "theirs l2, v fn", false },
  { "fetch_many, alone", [[return show_many(key, there, alone:fetch_many({ there, key }, 60, load_many))]],
    "v fn, v fn", "v fn, v fn", "v fn, v fn", "v fn, v fn" },
  { "set", [[return show(cache:set(key, "s", 60))]], "true nil", would_block(DONE), away "set", false },
  { "set, alone", [[return show(alone:set(key, "s", 60))]], "true nil", "true nil", "true nil", "true nil" },
  { "touch", [[warm(key) return show(cache:touch(key, 60))]], "true nil", would_block(DONE), away "touch", false },
  { "delete", [[return show(cache:delete(key))]], "true nil", would_block(DONE), away "delete", false },
  { "delete, alone", [[return show(alone:delete(key))]], "true nil", "true nil", "true nil", "true nil" },
  { "invalidate_tags", [[return show(cache:invalidate_tags(key))]], "true nil", would_block(DONE), away "invalidate_tags", false },
  { "clear", [[return show(cleared:clear())]], "true nil", would_block(DONE), away "clear", false },
  { "update", [[return show(cache:update(key, 60, load))]], "v nil", would_block "; nothing is changed",
    would_block "; nothing is changed", false },
  { "update, alone", [[return show(alone:update(key, 60, load))]], "v nil", "v nil", "v nil", "v nil" },
  { "peek", [[warm(key) return cache:peek(key).source]], "l1", "l1", "l1", false },
  { "explain", [[local told = cache:explain(there) return told.l2.state .. " " .. tostring(told.found)]], "good l2", "not asked nil", "not asked fn",
    "not asked nil" },
  { "explain, blocking", [[local told = cache:explain(there, BLOCKING) return told.l2.state .. " " .. tostring(told.found)]],
    "good l2", "good l2", "good l2", false },
  { "explain, alone", [[return tostring(alone:explain(key).found)]], "fn", "fn", "fn", "fn" },
  { "stats", [[return cache:stats().namespace]], "every-phase", "every-phase", "every-phase", "every-phase" },
  { "prometheus", [[return tostring(#cache:prometheus() > 1000)]], "true", "true", "true", "true" },
}

-- What runs in nginx.
local PROBE = [==[
  require("ffi").cdef "int poll(void *fds, unsigned long count, int timeout_ms);"
  BLOCKING = { blocking = true }
  function load() return "v" end
  function load_many(keys)
    local values = {}
    for _, key in ipairs(keys) do values[key] = "v" end
    return values
  end
  function show(value, err, source)
    if err ~= nil then return tostring(value) .. " " .. tostring(err) end
    return tostring(value) .. " " .. tostring(source)
  end
  function near(value, err, source) -- what other phases invalidate meanwhile sends a hit from L0 to L1
    return show(value, err, (source == "l0" or source == "l1") and "near" or source)
  end
  function show_many(key, there, values, errs, sources)
    if not values then return tostring(errs) end
    local out = {}
    for i, key in ipairs { there, key } do
      out[i] = errs[key] and tostring(errs[key]) or tostring(values[key]) .. " " .. tostring(sources[key])
    end
    return table.concat(out, ", ")
  end
  function warm(key)
    cache:set(key, "w", 60)
    -- A host that begins to listen may empty its L1: once, before it says that it listens. nginx's master does not, and has no threads.
    local deadline = os.time() + 30
    while ngx.get_phase() ~= "init" and not cache:stats().subscribed and os.time() < deadline do
      require("ffi").C.poll(nil, 0, 1) -- also where nothing can yield: it is a thread that listens
    end
    cache:set(key, "w", 60)
  end
  local codes = {}
  function cell(name, code)
    codes[#codes + 1] = { name, assert(loadstring("return function(key, there) " .. code .. " end", "=" .. name))() }
  end
  function probe(phase, tell)
    assert(ngx.get_phase() == phase, phase)
    for _, code in ipairs(codes) do
      local name = code[1]
      local ok, result = pcall(code[2], name .. " in " .. phase, "there: " .. name .. " in " .. phase)
      tell(phase .. "/" .. name, tostring(result))
    end
  end
  local begun = {}
  function record(phase)
    if begun[phase] then return end -- some phases come several times
    begun[phase] = true
    probe(phase, function(what, result) ngx.shared.phases:set(what, result) end)
    ngx.shared.phases:set(phase, true)
  end
]==]

local HTTP = [[
  lua_shared_dict phases 2m;
  init_by_lua_block {
    local gorge = require "gorge"
    local redis = { host = "127.0.0.1", port = {{redis_port}}, timeout = 10, connect_timeout = 10 } -- a busy machine is no reason to give up
    cache = assert(gorge.new { namespace = "every-phase", l1_size = "4m", redis = redis, freshness_bound = 60 }) -- nor to ask Redis
    cleared = assert(gorge.new { namespace = "every-phase-cleared", zone = "every-phase", l1_size = "4m", redis = redis })
    alone = assert(gorge.new { namespace = "every-phase-alone", l1_size = "4m" })
    {{probe}}
    record "init"
  }
  init_worker_by_lua_block { record "init_worker"; ngx.timer.at(0, function() record "timer" end) }
  exit_worker_by_lua_block { probe("exit_worker", function(what, result) ngx.log(ngx.NOTICE, "cell ", what, "=", result, " :cell") end) }
  ssl_session_fetch_by_lua_block { record "ssl_session_fetch" }
  ssl_session_store_by_lua_block { record "ssl_session_store" }
  upstream balanced {
    server 127.0.0.1:1;
    balancer_by_lua_block { record "balancer"; require("ngx.balancer").set_current_peer("127.0.0.1", {{port}}) }
  }
  server {
    listen 127.0.0.1:{{port2}} ssl;
    ssl_certificate {{dir}}/cert.pem;
    ssl_certificate_key {{dir}}/key.pem;
    ssl_session_tickets off;
    ssl_client_hello_by_lua_block { record "ssl_client_hello" }
    ssl_certificate_by_lua_block { record "ssl_cert" }
    location / { return 200 "tls"; }
  }
]]

local SERVER = [[
  server_rewrite_by_lua_block { record "server_rewrite" }
  location = /phases {
    set_by_lua_block $nothing { record "set" return "" }
    rewrite_by_lua_block { record "rewrite" }
    access_by_lua_block { record "access" }
    content_by_lua_block { record "content" ngx.print "all" }
    header_filter_by_lua_block { record "header_filter" }
    body_filter_by_lua_block { record "body_filter" }
    log_by_lua_block { record "log" }
  }
  location = /balanced { proxy_pass http://balanced/phases; }
  location = /result {
    content_by_lua_block {
      local phases = ngx.shared.phases
      if not phases:get(ngx.var.arg_phase) then return end
      local out = {}
      for _, name in ipairs(phases:get_keys(0)) do
        out[name] = phases:get(name)
      end
      ngx.print(require("cjson").encode(out))
    }
  }
]]

local function certificate(dir)
  local status, output = process.run {
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
    "-subj", "/CN=localhost", "-keyout", dir .. "/key.pem", "-out", dir .. "/cert.pem",
  }
  assert(status == 0, output)
end

--- What another node has stored, for each cell of each phase.
local function store_elsewhere(redis)
  local gorge = require "gorge"
  local other = assert(gorge.new { namespace = "every-phase", zone = "every-phase-elsewhere", l1_size = "4m",
    redis = { host = "127.0.0.1", port = redis.port, timeout = 10, connect_timeout = 10 } })
  for _, phases in ipairs(_M.ROWS) do
    for _, phase in ipairs(phases) do
      for _, cell in ipairs(_M.CELLS) do
        assert(other:set("there: " .. cell[1] .. " in " .. phase, "theirs", 600))
      end
    end
  end
  other:close()
end

--- Goes through all phases. Returns what each cell told, by "PHASE/CELL".
---@return table<string, string>
function _M.run()
  local redis, dir = helper.redis(), helper.temp_dir()
  certificate(dir)
  store_elsewhere(redis)
  local probes = { PROBE }
  for _, cell in ipairs(_M.CELLS) do
    probes[#probes + 1] = ("cell(%q, %q)"):format(cell[1], cell[2])
  end
  local nginx = helper.nginx {
    workers = 1, ports = 2, server = SERVER, http = HTTP:gsub("{{probe}}", (table.concat(probes, "\n"):gsub("%%", "%%%%"))),
    values = { redis_port = redis.port, dir = dir },
  }
  local all = nginx:get "/balanced"
  assert(all.body == "all", ("%s: %s\n%s"):format(all.status, all.err or all.body, nginx:error_log()))
  -- The second handshake wants to go on with the session of the first.
  process.run {
    "sh", "-c", "echo | openssl s_client -connect 127.0.0.1:" .. nginx.ports[2] .. " -tls1_2 -reconnect", timeout = 20,
  }
  local results = {}
  for _, phases in ipairs(_M.ROWS) do
    for _, phase in ipairs(phases) do
      if phase ~= "exit_worker" then
        local body = process.wait_until(function()
          local answer = nginx:get("/result?phase=" .. phase).body
          return answer ~= "" and answer
        end, { timeout = 30, message = phase .. " was not reached" })
        for name, told in pairs(require("cjson").decode(body)) do
          results[name] = name:find("/", 1, true) and told or nil
        end
      end
    end
  end
  nginx:quit()
  for name, told in nginx:error_log():gmatch "cell (exit_worker/.-)=(.-) :cell" do
    results[name] = told
  end
  return results
end

--- What a cell tells in a phase.
---@param row integer of the phase
---@return string|false false: it is not tried
function _M.expected(cell, row, phase)
  local told = cell[2 + row]
  if type(told) == "function" then
    return (told(phase))
  end
  return told
end

return _M
