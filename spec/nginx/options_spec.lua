-- SPDX-License-Identifier: MIT
-- gorge.new in nginx: what is wrong keeps nginx from starting and is named; workers meet in one zone wherever it is called.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

--- Starts nginx with options that are wrong; returns what it says.
local function refused(options)
  options.namespace = options.namespace or helper.unique_name "refused"
  local opts = node.nginx_options { options = options }
  opts.wait = false
  local nginx = helper.nginx(opts)
  local status = nginx.process:wait(10)
  local said = nginx:error_log()
  nginx:stop()
  assert.equal(1, status, "nginx did not refuse to start")
  return said
end

describe("an option that is wrong keeps nginx from starting and is named:", function()
  for _, case in ipairs {
    { "unknown", { l1_sise = "64m" }, "gorge: unknown option 'l1_sise'.*l1_size" },
    { "of a wrong type", { l1_objects = "many" }, "gorge: option 'l1_objects' must be" },
    { "a size that is no size", { l1_size = "64 megabytes" }, "gorge: option 'l1_size' must be.*got \"64 megabytes\"" },
    { "a size too small", { l1_size = "64k" }, "gorge: option 'l1_size' must be.*from 2m" },
    { "a time below zero", { negative_cache_ttl = -1 }, "gorge: option 'negative_cache_ttl' must be" },
    { "a name with a space", { namespace = "my app" }, "gorge: option 'namespace' must be" },
    { "a choice that there is not", { on_lock_timeout = "panic" }, "gorge: option 'on_lock_timeout' must be" },
    { "a share above one", { expiration_jitter = 1.5 }, "gorge: option 'expiration_jitter' must be a number from 0 to 1, got 1.5" },
    { "a word for a boolean", { cache_read_disabled = "yes" }, "gorge: option 'cache_read_disabled' must be a boolean, got \"yes\"" },
    { "not supported", { host = "luv" }, "gorge: option 'host': .* is not supported by this version" },
    { "a URL of another kind", { redis = "http://127.0.0.1:6379" }, "gorge: option 'redis'.*redis://" },
    { "a URL with a wrong port", { redis = "redis://127.0.0.1:99999" }, "gorge: option 'redis'.*port" },
    { "a URL with a wrong database", { redis = "redis://127.0.0.1/zero" }, "gorge: option 'redis'" },
    { "a certificate without its key", { redis = { host = "127.0.0.1", tls = { cert = "/c.pem" } } },
      "gorge: options 'redis.tls.cert' and 'redis.tls.key' need each other" },
    { "in the table of Redis", { redis = { host = "127.0.0.1", prot = 6379 } }, "gorge: unknown option 'redis.prot'" },
    { "a password of a wrong type", { redis = { host = "127.0.0.1", password = 5 } }, "gorge: option 'redis.password' must be" },
    { "a host that is not this one", { host = "loop" }, "gorge: option 'host' is \"loop\"" },
  } do
    it(case[1], function()
      local said = refused(case[2])
      assert.matches(case[3], said)
      assert.matches("init_by_lua", said)
    end)
  end

  it("a secret in a wrong URL stays secret", function()
    local said = refused { redis = "redis://user:s3cret-Pa55word@127.0.0.1:port/0" }
    assert.matches("gorge: option 'redis'", said)
    assert.is_nil(said:find("s3cret", 1, true))
  end)
end)

describe("gorge.new", function()
  it("in init_by_lua gives all caches of one zone its memory, and refuses another size", function()
    local n = node.start {
      options = { namespace = "one", zone = "common", l1_size = "4m" },
      init = [[
        local app = require "spec.nginx.app"
        app.other = assert(app.gorge.new { namespace = "two", zone = "common", l1_size = "4096k" })
        app.refused, app.reason = app.gorge.new { namespace = "three", zone = "common", l1_size = "8m" }
      ]],
    }
    n:run [[cache:set("k", 1, 60) other:set("k", 2, 60)]]
    for id = 0, 1 do
      local worker = n:worker(id)
      assert.same({ 1, 2 }, { (worker:run [[return cache:get "k"]]), (worker:run [[return other:get "k"]]) })
    end
    local is_refused, reason = n:run [[return refused == nil, reason]]
    assert.is_true(is_refused)
    assert.matches("^gorge: zone 'common' exists with a size of 4194304 bytes, asked for 8388608$", reason)
  end)

  for _, with in ipairs { "without Redis", "with Redis" } do
    describe("in init_worker_by_lua " .. with, function()
      local function start()
        local redis = with == "with Redis" and node.patient(helper.redis()) or nil
        local n = node.start { phase = "init_worker", options = { redis = redis } }
        helper.wait_until(function() return #n:worker_pids() == 2 end)
        if redis then
          node.wait_linked { n } -- a host that begins to listen may empty its L1
        end
        return n
      end

      it("lets the workers meet in one zone", function()
        local n = start()
        local workers = { n:worker(0), n:worker(1) }
        for round = 1, 20 do
          local writer, reader = workers[round % 2 + 1], workers[(round + 1) % 2 + 1]
          assert.is_true((writer:run([[return cache:set("k", ..., 60)]], round)))
          assert.equal(round, reader:run [[return cache:get "k"]])
          local _, _, source = reader:run [[return cache:get "k"]]
          assert.equal("l0", source)
        end
        assert.equal(2, n:stats().workers)
        local batch = n:start(100, [[count "callers" return cache:fetch("cold", 60, load_at_gate)]])
        n:wait_count("callers", 100)
        n:run [[open "loader"]]
        for _, result in ipairs(batch:results()) do
          assert.same({ "value of cold", nil }, { result[1], result[2] or result.err })
        end
        assert.equal(1, n:counted "loads")
        n:assert_clean_log()
      end)

      it("lets a worker that replaces a killed one meet the others", function()
        local n = start()
        n:run [[cache:set("k", "kept", 60)]]
        local pids = n:worker_pids()
        process.kill(pids[1], process.SIGKILL)
        helper.wait_until(function()
          local now = n:worker_pids()
          return #now == 2 and now[1] ~= pids[1] and now[2] ~= pids[1]
        end)
        for id = 0, 1 do
          assert.equal("kept", n:worker(id):run [[return cache:get "k"]])
        end
        assert.is_true((n:worker(0):run [[return cache:delete "k"]]))
        assert.is_nil(n:worker(1):run [[return cache:peek "k"]])
      end)

      it("lets old and new workers of a reload meet", function()
        local n = start()
        n:run [[cache:set("k", "kept", 60)]]
        -- The zone lives as long as somebody has it, and nginx gives its new workers 0.1 s before it tells the old ones to go.
        local stays = n:start(1, [[gate "stay"]])
        n:wait_count "at stay"
        n.nginx:reload()
        helper.wait_until(function()
          local worker = n:worker(0)
          worker:close()
          return not n.nginx.old_workers[worker.pid]
        end)
        n:run [[open "stay"]]
        stays:results()
        n.nginx:wait_drained()
        for id = 0, 1 do
          assert.equal("kept", n:worker(id):run [[return cache:get "k"]])
        end
        n:assert_clean_log()
      end)
    end)
  end
end)
