-- SPDX-License-Identifier: MIT
-- nginx with ngx_gorge_module: the cache picks it by itself, and it does all that pump and doorbell do. `make test-nginx-module` runs this, and the
-- other specs of nginx beside it; GORGE_NGINX_MODULE names the module.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local certificates = require "spec.support.certificates"

-- Logged by each worker.
local PICKED = "gorge: ngx_gorge_module moves the bytes of this worker"

local function start(opts)
  assert(helper.paths.nginx_module, "GORGE_NGINX_MODULE names no module")
  return node.start(opts)
end

--- Files that a process has open.
local function descriptors(pid)
  local _, output = helper.process.run { "ls", "/proc/" .. pid .. "/fd" }
  return select(2, output:gsub("\n", ""))
end

describe("ngx_gorge_module", function()
  local redis

  setup(function() redis = helper.redis() end)

  it("is picked where it is loaded, and not where it is not", function()
    for _, module in ipairs { helper.paths.nginx_module, false } do
      local n = start { workers = 1, module = module, log_level = "info", options = { redis = node.patient(redis) } }
      assert.is_true((n.nginx:test_configuration()))
      n:run [[cache:set("k", "v", 60)]]
      assert.equal("ready", n:stats().redis)
      assert.equal(module ~= false, n.nginx:error_log():find(PICKED, 1, true) ~= nil)
      n:assert_clean_log()
      n.nginx:stop()
    end
  end)

  it("answers many at once, and one after another", function()
    -- a timeout that a busy machine does not reach
    local n = start { workers = 2, options = { redis = { host = "127.0.0.1", port = redis.port, timeout = 10 }, l1_ttl = 0.001, l1_objects = 0 } }
    local wrong = n:run [[
      local function all(fn)
        local threads = {}
        for t = 1, 50 do
          threads[t] = ngx.thread.spawn(function()
            for i = 1, 40 do
              fn("key " .. t * 1000 + i)
            end
          end)
        end
        for _, thread in ipairs(threads) do
          assert(ngx.thread.wait(thread))
        end
      end
      all(function(key) assert(cache:set(key, "value of " .. key, 60)) end)
      ngx.sleep(0.02)
      local wrong = 0
      all(function(key)
        local value, _, source = cache:get(key)
        wrong = wrong + (value == "value of " .. key and source == "l2" and 0 or 1)
      end)
      for i = 1, 40 do
        wrong = wrong + (cache:get("key " .. 1000 + i) == "value of key " .. 1000 + i and 0 or 1)
      end
      return wrong
    ]]
    assert.equal(0, wrong)
    assert.equal("", n:run [[ -- larger than a buffer, in both directions
      local large = ("0123456789"):rep(300000)
      assert(cache:set("large", large, 60))
      ngx.sleep(0.02)
      local value, err, source = cache:get "large"
      return value == large and source == "l2" and "" or tostring(err or source)
    ]])
    n:assert_clean_log()
  end)

  it("sends the first of many commands while the others are being made", function()
    local n = start { workers = 1, options = { redis = node.patient(redis) } }
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    redis:command("CONFIG", "RESETSTAT")
    local asked = n:run([[
      local socket = require "socket"
      local client = assert(socket.connect("127.0.0.1", ...))
      local threads = {}
      for i = 1, 60 do
        threads[i] = ngx.thread.spawn(function() return cache:get("nowhere " .. i) end)
      end
      local asked, deadline = 0, socket.gettime() + 5 -- from here on until its end nothing but this runs in the worker
      repeat
        assert(client:send "INFO commandstats\r\n")
        local stats = client:receive(tonumber(client:receive():sub(2)) + 2)
        asked = tonumber(stats:match "cmdstat_get:calls=(%d+)") or 0
      until asked >= 30 or socket.gettime() > deadline
      for _, thread in ipairs(threads) do
        assert(ngx.thread.wait(thread))
      end
      return asked
    ]], redis.port)
    assert.is_true(asked >= 30, "Redis was asked for " .. asked .. " of 60 while the worker was busy")
    n:assert_clean_log()
  end)

  it("reaches Redis through a unix socket, with a password and a database, and by name", function()
    local guarded = helper.redis { password = "s3cret" }
    for _, where in ipairs {
      { path = guarded.unix, password = "s3cret", db = 3 },
      { host = "localhost", port = guarded.port, password = "s3cret" },
    } do
      local n = start { workers = 1, options = { redis = where } }
      assert.is_true(n:run [[return cache:set("k", "v", 60)]])
      assert.equal("ready", n:stats().redis)
      n:assert_clean_log()
      n.nginx:stop()
    end
    local n = start { workers = 1, options = { redis = { path = guarded.unix, password = "wrong" } } }
    local ok, err = n:run [[return cache:set("k", "v", 60)]]
    assert.is_nil(ok)
    assert.matches("authentication refused", err)
  end)

  it("speaks TLS, and takes no certificate of somebody else", function()
    local dir = helper.temp_dir()
    local authority, stranger = certificates.authority(dir, "authority"), certificates.authority(dir, "stranger")
    local server = authority:issue("server", { alt = "IP:127.0.0.1" })
    local guarded = helper.redis { tls = { cert = server.cert, key = server.key, ca = authority.ca } }
    for ca, expected in pairs { [authority.ca] = "ready", [stranger.ca] = "down" } do
      local where = { host = "127.0.0.1", port = guarded.tls_port, tls = { ca = ca }, timeout = 5, connect_timeout = 5 }
      local n = start { workers = 1, options = { redis = where } }
      n:run [[cache:set("k", "v", 60)]]
      helper.wait_until(function() return n:stats().redis == expected end, { message = "it is not " .. expected })
      n.nginx:stop()
    end
  end)

  it("wakes who waits for another worker, without Redis too", function()
    local n = start { workers = 2, options = { lock_sleep = 30 } }
    n:worker(0):run [[
      ngx.timer.at(0, function()
        cache:fetch("k", 60, function()
          count "loading"
          while counted "waiting" == 0 do
            ngx.sleep(0.002)
          end
          ngx.sleep(0.1)
          counts:set("loaded", now())
          return "v"
        end)
      end)
    ]]
    n:wait_count "loading"
    local value, took = n:worker(1):run [[
      count "waiting"
      local value = cache:fetch("k", 60, load)
      return value, now() - counted "loaded"
    ]]
    assert.equal("v", value)
    assert.is_true(took < 15, took) -- not by the look that lock_sleep allows
    n:assert_clean_log()
  end)

  it("serves several caches of a worker, and closes them one by one", function()
    local n = start { workers = 1, options = { redis = node.patient(redis) } }
    local pid = n:run [[return ngx.worker.pid()]]
    n:run [[return cache:set("k", "v", 60)]]
    local before = descriptors(pid)
    for _ = 1, 3 do
      assert.same({ true, true, "closed" }, { n:run([[
        local url, name = ...
        local a = assert(gorge.new { namespace = name .. "a", zone = name, l1_size = "4m", redis = url })
        local b = assert(gorge.new { namespace = name .. "b", zone = name, l1_size = "4m", redis = url })
        local one, two = a:set("k", 1, 60), b:set("k", 2, 60)
        a:close()
        local _, err = a:get "k"
        two = two and b:set("k", 3, 60)
        b:close()
        return one, two, err
      ]], redis.url, "more") })
    end
    helper.wait_until(function() return descriptors(pid) <= before + 3 end, { message = "descriptors stay" })
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    n:assert_clean_log()
  end)

  it("lets a worker end at once when its connection is idle, and after its commands when it is not", function()
    local n = start { workers = 2, options = { redis = node.patient(redis) } }
    for id = 0, 1 do
      n:worker(id):run [[return cache:set("k", "v", 60)]]
    end
    local began = helper.now()
    assert.equal(0, n.nginx:quit(10))
    assert.is_true(helper.now() - began < 5)
    n:assert_clean_log() -- no socket was left open
  end)

  it("finishes what drains while a reload replaces the workers", function()
    local n = start { workers = 1, options = { redis = node.patient(redis) } }
    local drains = n:start(1, [[
      cache:fetch("slow", 60, function()
        gate "slow"
        while not ngx.worker.exiting() do
          ngx.sleep(0.01)
        end
        return "v"
      end)
      local ok, err = cache:set("after", "v", 60)
      return ok, err, ngx.worker.exiting()
    ]])
    n:wait_count "at slow"
    n.nginx:reload()
    n:run [[open "slow"]]
    local result = drains:results()[1]
    assert.same({ true, nil, true }, { result[1], result[2], result[3] })
    n.nginx:wait_drained()
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    n:assert_clean_log()
  end)

  it("leaves its place to cosockets when a reload takes it out of the configuration", function()
    local opts = { workers = 1, module = false, main = ("load_module %s;"):format(helper.paths.nginx_module), options = { redis = node.patient(redis) } }
    local n = start(opts)
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    n:assert_clean_log()
    opts.main = nil
    n.nginx:configure(node.nginx_options { workers = 1, options = n.opts.options })
    n.nginx:reload()
    n.nginx:wait_drained()
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    local _, times = n.nginx:error_log():gsub(PICKED, "")
    assert.equal(1, times)
    n:assert_clean_log()
  end)

  it("is held to worker_shutdown_timeout by a Redis that does not answer", function()
    local own = helper.redis()
    local n = start { workers = 1, main = "worker_shutdown_timeout 1s;", options = { redis = { host = "127.0.0.1", port = own.port, timeout = 20 } } }
    n:run [[return cache:set("k", "v", 60)]]
    helper.process.kill(own.pid, helper.process.SIGSTOP)
    local batch = n:start(1, [[count "asking" return cache:set("k", "v2", 60)]])
    n:wait_count "asking"
    local began = helper.now()
    n.nginx:quit(15)
    local took = helper.now() - began
    helper.process.kill(own.pid, helper.process.SIGCONT)
    batch:close()
    assert.is_true(took < 10, took)
  end)

  it("comes back after Redis was killed, and names the cause meanwhile", function()
    local own = helper.redis()
    local n = start { workers = 1, options = { redis = own.url } }
    assert.is_true(n:run [[return cache:set("k", "v", 60)]])
    own:kill()
    helper.wait_until(function()
      n:run [[cache:set("k", "v", 60)]]
      return n:stats().redis == "down"
    end, { message = "nobody noticed" })
    assert.matches("^connect: Connection refused$", n:run [[
      for _ = 1, 100 do
        cache:set("k", "v", 60)
        local why = cache:stats().redis_error
        if why and why:find "refused" then
          return why
        end
        ngx.sleep(0.05)
      end
      return cache:stats().redis_error
    ]])
    own:up()
    helper.wait_until(function() return n:run [[return cache:set("k", "v", 60)]] == true end, { message = "did not come back" })
    n:assert_clean_log()
  end)

  it("leaves the bytes to cosockets, and says so, when it was built for another library", function()
    local n = helper.nginx {
      workers = 1, lua_path = helper.paths.lua_path,
      http = [[
        init_by_lua_block {
          -- what another version of the library would hand over
          local lib = require "gorge.ffi.lib"
          local other = require("ffi").new("struct gorge_io_calls", lib.gorge_io_calls()[0])
          other.abi_version = 0
          package.loaded["gorge.ffi.lib"] = setmetatable({ gorge_io_calls = function() return other end }, { __index = lib })
          package.loaded.cache = assert(require("gorge").new { namespace = "other", redis = "]] .. redis.url .. [[" })
        }
      ]],
      server = 'location = /set { content_by_lua_block { ngx.print(tostring(require("cache"):set("k", "v", 60))) } }',
    }
    assert.equal("true", n:get("/set").body)
    assert.matches("gorge: ngx_gorge_module is loaded but of no use, cosockets take its place: ngx_gorge_module was built for another version of libgorge",
      n:error_log(), 1, true)
  end)
end)
