-- SPDX-License-Identifier: MIT
-- Values on their way from one node through Redis to another: every kind arrives exactly, what is not ours is a miss.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- Makes the values on both nodes, so that none has to travel through the spec; compares without tolerance.
local VALUES = [[
  if values then
    return
  end
  local bytes = {}
  for i = 0, 255 do
    bytes[#bytes + 1] = string.char(i)
  end
  local deep = "bottom"
  for i = 1, 20 do
    deep = { level = i, inner = deep }
  end
  local long = {}
  for i = 1, 2000 do
    long[i] = { id = i, name = "name " .. i, odd = i % 2 == 1 }
  end
  values = {
    { "an empty string", "" },
    { "a string", "text" },
    { "every byte", table.concat(bytes) },
    { "text that looks like JSON", '{"a":1}' },
    { "invalid UTF-8", "\xff\xfe\x80" },
    { "a megabyte", (table.concat(bytes)):rep(4096) },
    { "zero", 0 },
    { "a negative integer", -42 },
    { "2^53", 2 ^ 53 },
    { "-2^53", -2 ^ 53 },
    { "a third", 1 / 3 },
    { "0.1 + 0.2", 0.1 + 0.2 },
    { "the smallest double", 5e-324 },
    { "the largest double", 1.7976931348623157e308 },
    { "true", true },
    { "false", false },
    { "an empty table", {} },
    { "an array", { 1, "two", false, { 4 } } },
    { "an object", { name = "x", list = { 1, 2, 3 }, empty = {}, no = false, number = 0.1 } },
    { "a table with binary keys and values", { ["\0\255"] = "\0\255\n\"\\" } },
    { "integer keys with holes", { [1] = "a", [3] = "c", [10] = "j", [-1] = "minus" } },
    { "mixed keys", { "first", "second", name = "x", [2.5] = "half", [2 ^ 53 - 1] = "large" } },
    { "nested tables", deep },
    { "a long array", long },
    { "nothing", nil },
  }
  function same(a, b)
    if type(a) ~= type(b) then
      return false
    elseif type(a) ~= "table" then
      return a == b
    end
    for k, v in pairs(a) do
      if not same(v, b[k]) then
        return false
      end
    end
    for k in pairs(b) do
      if a[k] == nil then
        return false
      end
    end
    return true
  end
]]

--- Names of values that did not arrive as they were, with what the read told.
local CHECK = [[
  local how, expected_source = ...
  local wrong = {}
  for _, item in ipairs(values) do
    local key = how .. " " .. item[1]
    local value, err, source = cache:fetch(key, 60, function() error "not to be run" end)
    if err ~= nil or source ~= expected_source or not same(item[2], value) then
      wrong[#wrong + 1] = item[1] .. ": " .. tostring(err) .. " from " .. tostring(source)
    end
  end
  return table.concat(wrong, "; ")
]]

describe("values", function()
  local redis, a, b
  local function nodes(options)
    redis = helper.redis()
    options = options or {}
    options.redis = node.patient(redis)
    a, b = node.pair(redis, { options = options })
    a:run(VALUES)
    b:run(VALUES)
  end

  -- the workers of a node do not share what posted code has defined
  local function round_trip()
    local from, to = a:worker(0), b:worker(1)
    from:run(VALUES)
    to:run(VALUES)
    local failed = from:run [[
      local failed = {}
      for _, item in ipairs(values) do
        local value, err = cache:fetch("fetched " .. item[1], 60, function() return item[2] end)
        if err ~= nil or not same(value, item[2]) then
          failed[#failed + 1] = item[1] .. ": " .. tostring(err)
        end
        local ok
        ok, err = cache:set("set " .. item[1], item[2], 60)
        if not ok then
          failed[#failed + 1] = item[1] .. ": " .. tostring(err)
        end
      end
      return table.concat(failed, "; ")
    ]]
    assert.equal("", failed)
    assert.equal("", to:run(CHECK, "fetched", "l2"))
    assert.equal("", to:run(CHECK, "set", "l2"))
    -- what came from Redis stays exact in the layers above
    assert.equal("", to:run(CHECK, "fetched", "l0"))
    local beside = b:worker(0)
    beside:run(VALUES)
    assert.equal("", beside:run(CHECK, "fetched", "l1"))
  end

  it("of every kind arrive exactly", function()
    nodes()
    round_trip()
  end)

  it("of every kind arrive exactly as JSON", function()
    nodes { serializer = "json" }
    local from, to = a:worker(0), b:worker(1)
    -- what JSON itself cannot carry is left out: bytes that are not UTF-8, keys that are neither all strings nor 1 to n
    for _, worker in ipairs { from, to } do
      worker:run(VALUES)
      worker:run [[
        local kept = {}
        for _, item in ipairs(values) do
          if not item[1]:find "byte" and not item[1]:find "UTF" and not item[1]:find "binary" and not item[1]:find " keys" then
            kept[#kept + 1] = item
          end
        end
        values = kept
      ]]
    end
    assert.equal("", from:run [[
      local failed = {}
      for _, item in ipairs(values) do
        local ok, err = cache:set("set " .. item[1], item[2], 60)
        if not ok then
          failed[#failed + 1] = item[1] .. ": " .. tostring(err)
        end
      end
      return table.concat(failed, "; ")
    ]])
    assert.equal("", to:run(CHECK, "set", "l2"))
  end)

  it("keep keys apart that hold braces, separators and any bytes", function()
    nodes()
    local key_list = [[
      local keys = { "a", "a:b", "{a}", "{other}:a", "a b", "a\r\nb", "a\0b", ("k"):rep(8192), "\xff", "v:a", "{1:x:0}:v:a" }
    ]]
    a:run(key_list .. [[for i, key in ipairs(keys) do assert(cache:set(key, i, 60)) end]])
    assert.equal("", b:run(key_list .. [[
      local wrong = {}
      for i, key in ipairs(keys) do
        local value, err, source = cache:get(key)
        if value ~= i or source ~= "l2" then
          wrong[#wrong + 1] = i .. ": " .. tostring(value) .. " " .. tostring(err)
        end
      end
      return table.concat(wrong, "; ")
    ]]))
  end)
end)

describe("through Redis", function()
  local redis, a, b
  setup(function()
    redis = helper.redis()
    a, b = node.pair(redis, { options = { negative_cache_ttl = 30, redis = node.patient(redis) } })
  end)

  --- The key under which Redis holds the value.
  local function redis_key(key)
    local found
    for _, name in ipairs(redis:command("KEYS", "*:v:" .. key)) do
      found = name
    end
    assert(found, "no value of " .. key .. " in Redis")
    return found
  end

  it("'no such thing' is known to the other node and is not asked for again", function()
    local value, err, source = a:run [[return cache:fetch("none", 60, function() count "asked" end)]]
    assert.same({ nil, nil, "fn" }, { value, err, source })
    value, err, source = b:run [[return cache:fetch("none", 60, function() count "asked" end)]]
    assert.same({ nil, nil, "l2" }, { value, err, source })
    assert.equal(0, b:counted "asked")
    local ttl = redis:command("PTTL", redis_key "none")
    assert.is_true(ttl > 25000 and ttl <= 30000, ttl .. " ms")
    assert.is_true((b:run [[return cache:set("none", "found", 60)]]))
    helper.wait_until(function() return a:run [[return cache:get "none"]] == "found" end, { timeout = 1 })
  end)

  it("a ttl of less than a second ends on time in every layer of every node", function()
    local worker = a:worker(0)
    local before = helper.now()
    worker:run [[cache:fetch("short", 0.9, load)]]
    local since = helper.now()
    assert.is_true(redis:command("PTTL", redis_key "short") <= 900)
    local _, _, source = b:run [[return cache:get "short"]]
    assert.equal("l2", source)
    local peeked = b:run [[return cache:peek("short").ttl]]
    assert.is_true(peeked > 0 and peeked <= 0.9)
    for _, n in ipairs { a, b } do
      local asked = since
      helper.wait_until(function()
        local now = helper.now()
        local found = n:run [[return cache:get "short"]] ~= nil
        asked = found and now or asked -- whoever asks later finds nothing
        return not found
      end, { timeout = 5, interval = 0.005 })
      assert.is_true(asked - since < 1, ("it was there %.2f s later"):format(asked - since))
    end
    local took = helper.now() - before
    assert.is_true(took > 0.8, ("it ended after %.2f s"):format(took))
  end)

  it("never has more of its ttl left on another node than when it was written", function()
    local reader = b:worker(0)
    local writer = a:worker(0)
    local kept = 0
    for i = 1, 200 do
      local key = "soon " .. i
      writer:run([[assert(cache:set(..., 1, 5))]], key)
      local source, ttl = reader:run([[
        local _, _, source = cache:get(...)
        local peeked = cache:peek(...)
        return source, peeked and peeked.ttl
      ]], key)
      assert.equal("l2", source)
      if ttl then -- L1 does not wait for its lock: what comes while another process has it and does not run is not kept
        kept = kept + 1
        assert.is_true(ttl <= 5, ("%.3f s are left"):format(ttl))
      end
    end
    assert.is_true(kept > 100, kept .. " values in L1")
    writer:close()
    reader:close()
  end)

  it("a ttl longer than l1_ttl lives on in Redis", function()
    local c, d = node.pair(redis, { options = { l1_ttl = 0.2, redis = node.patient(redis) } })
    c:run [[cache:set("long", 1, 3600)]]
    assert.equal(1, d:run [[return cache:get "long"]])
    helper.wait_until(function() return d:run [[return cache:peek "long"]] == nil end, { timeout = 1 })
    local _, _, source = d:run [[return cache:fetch("long", 60, load)]]
    assert.equal("l2", source)
  end)

  it("what was written by somebody else is a miss, counted, and replaced", function()
    for i, garbage in ipairs {
      "", "garbage", ("\0"):rep(1000), "G\1", "G\1\0\4" .. ("\0"):rep(60), ("G"):rep(100000),
      function(good) return good:sub(1, -2) end,
      function(good) return good .. "x" end,
      function(good) return good:sub(1, -2) .. string.char((good:byte(-1) + 1) % 256) end,
      function(good) return "G\2" .. good:sub(3) end,
    } do
      local key = "spoilt " .. i
      a:run([[cache:set(..., { list = { 1, 2, 3 } }, 60, "tag")]], key)
      local name = redis_key(key)
      local spoilt = type(garbage) == "function" and garbage(redis:command("GET", name)) or garbage
      assert.equal("OK", redis:command("SET", name, spoilt))
      local before = b:stats().decode_errors
      local value, err, source = b:run([[return cache:fetch(..., 60, load)]], key)
      assert.same({ "value of " .. key, nil, "fn" }, { value, err, source })
      assert.is_true(b:stats().decode_errors > before, "not counted: " .. i)
      -- and the value fetched has taken its place
      helper.wait_until(function()
        local stored = redis:command("GET", name)
        return stored ~= spoilt and #stored < 200
      end, { timeout = 1, message = "the spoilt value " .. i .. " stayed in Redis" })
    end
    assert.equal(0, b:stats().fills_running)
  end)

  it("a value in which a byte was changed is not believed", function()
    a:run [[cache:set("changed", "an innocent text", 60)]]
    local name = redis_key "changed"
    local stored = redis:command("GET", name)
    redis:command("SET", name, (stored:gsub("innocent", "insolent")))
    local value = b:run [[return cache:fetch("changed", 60, load)]]
    assert.equal("value of changed", value)
  end)

  it("what has another type in Redis is no error for the caller", function()
    a:run [[cache:set("typed", 1, 60)]]
    local name = redis_key "typed"
    redis:command("DEL", name)
    redis:command("RPUSH", name, "a", "list")
    for _, n in ipairs { b, a } do
      n:run [[cache:delete "away"]]
      local value, err = n:run [[return cache:fetch("typed", 60, load)]]
      assert.is_truthy(value)
      assert.is_nil(err)
    end
  end)

  it("a value whose codec fails on another node is a miss there", function()
    local c = node.start { options = { namespace = a.namespace, redis = node.patient(redis) }, init = [[
      local app = require "spec.nginx.app"
      app.cache = assert(app.gorge.new {
        namespace = "]] .. a.namespace .. [[", zone = "other", redis = ]] .. node.literal(node.patient(redis)) .. [[,
        serializer = { name = "broken", encode = function() return "bytes" end, decode = function() error "cannot" end },
      })
    ]] }
    assert.is_true((c:run [[return cache:set("custom", 1, 60)]]))
    local value, err = b:run [[return cache:fetch("custom", 60, load)]]
    assert.same({ "value of custom", nil }, { value, err })
    assert.is_true(b:stats().decode_errors > 0)
  end)

  it("a codec that fetches the key it decodes is told so, and does not wait for itself", function()
    local c = node.start { options = { namespace = a.namespace, redis = node.patient(redis) }, init = [[
      local app = require "spec.nginx.app"
      app.cache = assert(app.gorge.new {
        namespace = "]] .. a.namespace .. [[", zone = "small", l1_size = "2m", redis = ]] .. node.literal(node.patient(redis)) .. [[,
        serializer = { name = "own", encode = tostring, decode = function(bytes)
          local _, err = app.cache:fetch("recursive", 60, load)
          app.inner = err
          return #bytes
        end },
      })
    ]] }
    local value, err, source, inner = c:run [[
      assert(cache:set("recursive", ("x"):rep(1000000), 60)) -- too large for L1, which would answer the decoder
      local value, err, source = cache:fetch("recursive", 60, load)
      return value, err, source, require("spec.nginx.app").inner
    ]]
    assert.same({ 1000000, nil, "l2", 'gorge: key "recursive": fn fetches the key that it is loading' }, { value, err, source, inner })
  end)
end)
