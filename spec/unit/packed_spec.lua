-- SPDX-License-Identifier: MIT
-- Compressed values: what is worth it is compressed for Redis and comes back; every cache reads it; a bomb is refused.

local codec = require "gorge.codec"
local zstd = require "gorge.ffi.zstd"

local kind = codec.kind
local packing = codec.new("auto", nil, { above = 1000, level = 3 })
local plain = codec.new "auto"

local function noise(length)
  math.randomseed(length)
  local out = {}
  for i = 1, length do
    out[i] = string.char(math.random(0, 255))
  end
  return table.concat(out)
end

describe("compression", function()
  it("is for Redis, above the size, where it saves an eighth", function()
    local long = ("all work and no play "):rep(1000)
    local k1, bytes1, k2, bytes2 = packing.encode(long, true)
    assert.same({ kind.STRING, long, kind.PACKED }, { k1, bytes1, k2 })
    assert.is_true(#bytes2 < 200)
    assert.equal(kind.STRING, bytes2:byte(1))
    assert.are_not.equal(kind.PACKED, select(3, packing.encode(long, false)))
    for _, not_worth_it in ipairs { ("x"):rep(999), noise(5000), "", "short" } do
      assert.same({ kind.STRING, not_worth_it, kind.STRING, not_worth_it }, { packing.encode(not_worth_it, true) })
    end
    assert.equal(kind.PACKED, select(3, packing.encode(("x"):rep(1000), true)))
    assert.same({ kind.NIL, "", kind.NIL, "" }, { packing.encode(nil, true) })
    assert.same({ nil, "value: cannot serialize a function" }, { packing.encode(print, true) })
  end)

  it("is read by every cache, also by one that does not compress", function()
    local list = {}
    for i = 1, 500 do
      list[i] = { id = i, name = "name " .. i }
    end
    for _, value in ipairs { ("text "):rep(1000), list } do
      for _, serializer in ipairs { "auto", "json", "msgpack" } do
        local _, _, k2, bytes2 = codec.new(serializer, nil, { above = 64, level = 19 }).encode(value, true)
        assert.equal(kind.PACKED, k2)
        for _, from_l2 in ipairs { true, false } do
          assert.same({ true, value }, { codec.new(serializer).decode(k2, bytes2, from_l2) })
        end
      end
    end
    local own = { name = "own", encode = function(value) return value end, decode = function(bytes) return bytes end }
    local _, _, k2, bytes2 = codec.new(own, nil, { above = 64, level = 1 }).encode(("x"):rep(100), true)
    assert.same({ kind.PACKED, true, ("x"):rep(100) }, { k2, codec.new(own).decode(k2, bytes2, true) })
  end)

  it("decodes nothing that is damaged, nested, or of a kind that does not belong in Redis", function()
    local frame = zstd.compress(("x"):rep(1000), 3, 1000)
    for bytes, problem in pairs {
      [""] = "compressed bytes of kind nil",
      [string.char(kind.NIL) .. frame] = "compressed bytes of kind 0",
      [string.char(kind.BUFFER) .. frame] = "compressed bytes of kind 5",
      [string.char(kind.TYPED) .. frame] = "compressed bytes of kind 8",
      [string.char(kind.PACKED) .. frame] = "compressed bytes of kind 10",
      ["\200" .. frame] = "compressed bytes of kind 200",
      [string.char(kind.STRING)] = "a zstd frame that is malformed or does not tell its size",
      [string.char(kind.STRING) .. "no frame at all"] = "a zstd frame that is malformed or does not tell its size",
      [string.char(kind.NUMBER) .. frame] = "malformed number",
    } do
      assert.same({ false, problem }, { plain.decode(kind.PACKED, bytes, true) })
    end
    for cut = 1, #frame - 1 do
      assert.is_false((plain.decode(kind.PACKED, string.char(kind.STRING) .. frame:sub(1, cut), true)))
    end
    assert.is_false((plain.decode(kind.PACKED, string.char(kind.STRING) .. frame .. "tail", true)))
    assert.is_false((plain.decode(kind.PACKED, string.char(kind.STRING) .. frame .. frame, true)))
  end)

  it("refuses a bomb before it goes off", function()
    -- A frame's head that tells 2^40 bytes, and one that keeps what it tells a byte above the limit.
    local claims = "\x28\xb5\x2f\xfd\xe0" .. "\0\0\0\0\0\1\0\0" .. "\1\0\0"
    assert.same({ nil, "a zstd frame of 1099511627776 bytes, more than 67108864" }, { zstd.decompress(claims) })
    local most = ("\0"):rep(zstd.MAX_PLAIN)
    local frame = zstd.compress(most, 1, 100000)
    assert.is_true(#frame < 10000)
    assert.is_true(most == zstd.decompress(frame))
    assert.is_nil(zstd.compress(most .. "\0", 1, 100000))
    local unknown = "\x28\xb5\x2f\xfd\x00\x58\x0b\0\0\2\0"
    assert.is_nil((zstd.decompress(unknown)))
  end)
end)
