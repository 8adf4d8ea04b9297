-- SPDX-License-Identifier: MIT
-- Servers as they are: with a password, behind a unix socket, short of memory, read-only, without its scripts.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local cjson = require "cjson"

local SECRET = "s3cret-Pa55word"

local function fetch(n, key)
  return n:run([[return cache:fetch(..., 60, load)]], key or helper.unique_name "key")
end

local function assert_shared(a, b)
  local key = helper.unique_name "shared"
  assert.equal("value of " .. key, (fetch(a, key)))
  local value, err, source = fetch(b, key)
  assert.same({ "value of " .. key, nil, "l2" }, { value, err, source })
end

local function wait_shared(a, b)
  helper.wait_until(function()
    local key = helper.unique_name "shared"
    fetch(a, key)
    local _, _, source = fetch(b, key)
    return source == "l2"
  end, { timeout = 4, interval = 0.05 })
end

local function pair(redis)
  return node.pair(redis, { options = { redis = node.patient(redis) } })
end

--- The node answers as if there were no Redis, and says so where it must.
local function assert_alone(n, reason)
  local key = helper.unique_name "alone"
  local value, err, source = fetch(n, key)
  assert.same({ "value of " .. key, nil, "fn" }, { value, err, source })
  local ok
  ok, err = n:run [[return cache:set("k", 1, 60)]]
  assert.is_nil(ok)
  assert.matches("^gorge: set: done on this host, but not in Redis: ", err)
  if reason then
    assert.matches(reason, err)
  end
  assert.equal(1, n:run [[return cache:get "k"]])
  return err
end

--- Everything that the node has said anywhere.
local function everything_said(n)
  return n.nginx:error_log() .. cjson.encode(n:stats()) .. (helper.read_file(n.nginx.prefix .. "/stderr") or "")
end

describe("a server with a password", function()
  local redis
  setup(function()
    redis = helper.redis { password = SECRET }
  end)

  it("is used when the password is right, and nothing tells it", function()
    local a, b = node.pair(redis, { log_level = "debug" })
    assert_shared(a, b)
    local c, d = node.pair(redis, { options = { redis = { host = "127.0.0.1", port = redis.port, username = "default", password = SECRET } } })
    assert_shared(c, d)
    for _, n in ipairs { a, b, c, d } do
      assert.is_nil(everything_said(n):find(SECRET, 1, true))
      assert.is_nil((n:run [[return cjson and "" or require("cjson").encode(cache:stats())]]):find(SECRET, 1, true))
    end
  end)

  for name, password in pairs { wrong = "wrong-" .. SECRET, missing = false } do
    it("is done without when the password is " .. name .. ", and nothing tells it", function()
      local n = node.start {
        workers = 1, -- what stats tells of the connection is the worker's own
        log_level = "debug",
        options = { redis = { host = "127.0.0.1", port = redis.port, password = password or nil } },
      }
      local err = assert_alone(n)
      local state = n:run [[local s = cache:stats() return s.redis .. ": " .. tostring(s.redis_error)]]
      assert.matches("authentication " .. (password and "refused" or "required"), state)
      assert.is_nil((everything_said(n) .. err .. state):find(SECRET, 1, true))
    end)
  end

  it("is found again when the password has been corrected there", function()
    local n = node.start { options = { redis = { host = "127.0.0.1", port = redis.port, password = "another" } } }
    assert_alone(n)
    redis:command("CONFIG", "SET", "requirepass", "another")
    helper.wait_until(function() return n:run [[return cache:set("k", 2, 60)]] end, { timeout = 4 })
    n:run [[return cache:get "k"]]
    redis.opts.password = "another"
    assert.equal("OK", redis:command("CONFIG", "SET", "requirepass", SECRET))
    redis.opts.password = SECRET
  end)
end)

describe("a server", function()
  local redis
  setup(function()
    redis = helper.redis()
  end)

  it("is reached through a unix socket", function()
    local a, b = node.pair(redis, { options = { redis = redis.unix_url } })
    assert_shared(a, b)
    local c, d = node.pair(redis, { options = { redis = { path = redis.unix } } })
    assert_shared(c, d)
    a:assert_clean_log()
  end)

  it("is reached by a name", function()
    local a, b = node.pair(redis, { options = { redis = ("redis://localhost:%d"):format(redis.port) } })
    assert_shared(a, b)
  end)

  it("keeps databases apart", function()
    local url = ("redis://127.0.0.1:%d/%%d"):format(redis.port)
    local a, b = node.pair(redis, { options = { namespace = "databases", redis = url:format(5) } })
    assert_shared(a, b)
    a:run [[cache:set("k", 5, 60)]]
    local c = node.start { options = { namespace = "databases", redis = url:format(6) } }
    assert.is_nil(c:run [[return cache:get "k"]])
    local client = redis:connect()
    client.send("SELECT", 5)
    client.read()
    client.send("KEYS", "*databases*:v:k")
    assert.equal(1, #client.read())
    client.close()
    assert.same({}, redis:command("KEYS", "*databases*"))
  end)

  it("is done without when it does not have the database", function()
    local n = node.start { workers = 1, options = { redis = ("redis://127.0.0.1:%d/99"):format(redis.port) } }
    assert_alone(n)
    assert.matches("DB index", n:run [[return cache:stats().redis_error]] or "")
  end)

  it("that has lost its scripts is given them again", function()
    local a, b = pair(redis)
    for _ = 1, 3 do
      assert_shared(a, b)
      assert.equal("OK", redis:command("SCRIPT", "FLUSH"))
      assert.is_true((a:run [[return cache:set("k", 1, 60, "t")]]))
      redis:command("SCRIPT", "FLUSH")
      assert.is_true((a:run [[return cache:invalidate_tags "t"]]))
      redis:command("SCRIPT", "FLUSH")
      assert.is_true((a:run [[return cache:delete "k"]]))
      redis:command("SCRIPT", "FLUSH")
      assert_shared(b, a)
    end
    assert.equal(0, a:stats().l2_errors)
    -- and many commands in flight at once
    redis:command("SCRIPT", "FLUSH")
    for i, result in ipairs(a:start(50, [[local key = "many " .. counts:incr("many", 1, 0) return cache:fetch(key, 60, load)]]):results()) do
      assert.is_nil(result.err or result[2])
      assert.is_truthy(result[1], i)
    end
    assert.equal(0, a:stats().fills_running)
  end)

  it("without memory still forgets what it is told to, and fetches go on", function()
    local a, b = pair(redis)
    a:run [[cache:set("old", 1, 60, "t") cache:set("other", 1, 60)]]
    assert.equal(1, b:run [[return cache:get "old"]])
    assert.equal(1, b:run [[return cache:get "other"]])
    redis:command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis:command("CONFIG", "SET", "maxmemory", "1")
    assert_alone(a, "OOM")
    assert.is_true((a:run [[return cache:delete "other"]]))
    assert.is_true((a:run [[return cache:invalidate_tags "t"]]))
    for _, key in ipairs { "old", "other" } do
      helper.wait_until(function() return b:run([[return cache:get(...)]], key) == nil end, { timeout = 1 })
    end
    assert_alone(b, "OOM")
    redis:command("CONFIG", "SET", "maxmemory", "0")
    assert_shared(a, b)
    assert.is_true((a:run [[return cache:set("old", 2, 60)]]))
    helper.wait_until(function() return b:run [[return cache:get "old"]] == 2 end, { timeout = 1 })
    assert.equal(0, a:stats().fills_running)
  end)

  it("that evicts keys loses nothing but values", function()
    local a, b = pair(redis)
    a:run [[cache:set("k", 1, 60, "t")]]
    b:run [[cache:get "k"]]
    -- tags and the counter of versions are gone: what carries the tag must not be believed, what is written must still be newer
    for _, name in ipairs(redis:command("KEYS", ("{%d:%s:0}:*"):format(#a.namespace, a.namespace))) do
      if not name:find(":v:", 1, true) then
        redis:command("DEL", name)
      end
    end
    local value, err = node.start({ options = { namespace = a.namespace, redis = redis.url } }):run [[return cache:fetch("k", 60, load)]]
    assert.same({ "value of k", nil }, { value, err })
    assert.is_true((a:run [[return cache:set("k", 2, 60)]]))
    helper.wait_until(function() return b:run [[return cache:get "k"]] == 2 end, { timeout = 1 })
    assert_shared(a, b)
  end)

  it("that is read-only for a while is done without", function()
    local own = helper.redis()
    local a, b = pair(own)
    assert_shared(a, b)
    own:command("CONFIG", "SET", "min-replicas-to-write", "1")
    assert_alone(a, "NOREPLICAS")
    own:command("CONFIG", "SET", "min-replicas-to-write", "0")
    assert_shared(a, b)
    own:command("REPLICAOF", "127.0.0.1", "1")
    assert_alone(a)
    own:command("REPLICAOF", "NO", "ONE")
    wait_shared(a, b)
  end)

  it("that forbids a command is done without", function()
    redis:command("ACL", "SETUSER", "poor", "on", ">poor", "~*", "&*", "+@all", "-eval", "-evalsha")
    local n = node.start { options = { redis = ("redis://poor:poor@127.0.0.1:%d"):format(redis.port) } }
    assert_alone(n, "NOPERM")
  end)

  it("that is busy with a script is done without until it is over", function()
    local own = helper.redis { config = "busy-reply-threshold 50" }
    local a, b = pair(own)
    local client = own:connect()
    client.send("EVAL", "while true do end", 0)
    helper.wait_until(function()
      local _, err = own:command("GET", "x")
      return err and err:find "^BUSY"
    end)
    assert_alone(a)
    own:command("SCRIPT", "KILL")
    client.close()
    wait_shared(a, b)
  end)
end)
