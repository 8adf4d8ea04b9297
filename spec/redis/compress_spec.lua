-- SPDX-License-Identifier: MIT
-- The option compress: long values are small in Redis, and every node reads them.
local helper = require "spec.helper"
local gorge = require "gorge"
local node = require "spec.nginx.node"

describe("compress", function()
  local redis
  setup(function() redis = helper.redis() end)

  local function pair(namespace, options)
    local made = {}
    for i, name in ipairs { "a", "b" } do
      local o = { namespace = namespace, zone = namespace .. name, l1_size = "4m", redis = node.patient(redis), compress = i == 1 and "1k" or nil }
      for k, v in pairs(options or {}) do
        o[k] = v
      end
      made[i] = assert(gorge.new(o))
      made[i]:get "start"
    end
    return made[1], made[2]
  end

  local function stored(namespace, key)
    local prefix = ("{%d:%s:0}:"):format(#namespace, namespace)
    return redis:command("GET", prefix .. redis:command("GET", prefix .. "e") .. ":v:" .. key)
  end

  local function never() error "not to be run" end

  for _, serializer in ipairs { "auto", "json", "msgpack" } do
    it("makes long values small in Redis, for nodes with and without the option: serializer " .. serializer, function()
      local namespace = "compress-" .. serializer
      local a, b = pair(namespace, { serializer = serializer, schema = serializer == "json" and { { name = "string" } } or nil })
      local list = {}
      for i = 1, 1000 do
        list[i] = { name = "name " .. i % 10 }
      end
      assert.equal("fn", select(3, a:fetch("long", 60, function() return list end)))
      assert.is_true(a:set("short", { { name = "x" } }, 60))
      assert.equal(10, stored(namespace, "long"):byte(4))
      assert.is_true(#stored(namespace, "long") < 1000)
      assert.is_true(stored(namespace, "short"):byte(4) < 10)
      assert.same({ list, nil, "l2" }, { b:fetch("long", 60, never) })
      assert.same({ list, nil, "l0" }, { b:fetch("long", 60, never) })
      local direct = assert(gorge.new { namespace = namespace, zone = namespace .. "b", l1_size = "4m", redis = node.patient(redis), serializer = serializer,
        l1_objects = 0 })
      assert.same({ list, nil, "l1" }, { direct:fetch("long", 60, never) })
      assert.same({ { name = "name 1" } }, (b:update("long", 60, function(old) return { old[1] } end)))
      assert.is_true(stored(namespace, "long"):byte(4) < 10) -- that node does not compress
    end)
  end

  it("lets a decoder of the program's yield, and other calls be made meanwhile", function()
    local function decode(bytes)
      gorge.sleep(0.001)
      return bytes
    end
    gorge.run(function()
      local a, b = pair("compress-yields", { serializer = { name = "own", encode = function(value) return value end, decode = decode }, compress = 64 })
      for _, key in ipairs { "other", "got", "fetched" } do
        assert.is_true(a:set(key, key:rep(100), 60))
      end
      for key, ask in pairs { got = function() return b:get "got" end, fetched = function() return b:fetch("fetched", 60, never) end } do
        local other
        gorge.spawn(function() other = b:get "other" end)
        assert.same({ key:rep(100), nil, "l2" }, { ask() })
        while not other do
          gorge.sleep(0.001)
        end
        assert.is_true(b:set(key, "newer", 60))
        assert.equal("newer", (ask()))
      end
    end)
  end)

  it("damaged in Redis is a miss", function()
    local a, b = pair "compress-damaged"
    a:set("k", ("x"):rep(100000), 60)
    local namespace = "compress-damaged"
    local prefix = ("{%d:%s:0}:"):format(#namespace, namespace)
    local raw = stored(namespace, "k")
    redis:command("SET", prefix .. redis:command("GET", prefix .. "e") .. ":v:k", raw:sub(1, -3) .. "zz")
    assert.same({ "anew", nil, "fn" }, { b:fetch("k", 60, function() return "anew" end) })
  end)
end)
