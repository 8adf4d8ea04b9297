-- SPDX-License-Identifier: MIT
-- MessagePack: what is stored comes back as it was; another implementation reads and writes the same; hostile bytes are refused within bounds.

local cjson = require "cjson"
local codec = require "gorge.codec"
local helper = require "spec.helper"
local msgpack = require "gorge.codec.msgpack"
local shape = require "gorge.codec.shape"

local kind = codec.kind
local c = codec.new "msgpack"
local NULL = cjson.null

---Equality without any mercy: types, NaN, the sign of zero, every key.
local function same(a, b)
  if type(a) ~= type(b) then
    return false
  elseif type(a) == "number" then
    return (a ~= a and b ~= b) or (a == b and 1 / a == 1 / b)
  elseif type(a) ~= "table" then
    return a == b
  end
  for k, v in next, a do
    if b[k] == nil or not same(v, b[k]) then
      return false
    end
  end
  for k in next, b do
    if a[k] == nil then
      return false
    end
  end
  return true
end

local function hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

local function unhex(text)
  return (text:gsub("%s", ""):gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- Numbers at the borders of every form, and what lies between.
local NUMBERS = { 0, -0.0, 0.5, -0.5, 0 / 0, math.huge, -math.huge, 5e-324, 1.7976931348623157e308, 1 / 3, 2 ^ 53 + 2, -2 ^ 53 - 2, 2 ^ 63, -2 ^ 63, 2 ^ 64,
  -1e19, 1e300, -1e300 }
for _, border in ipairs { 0x20, 0x80, 0x100, 0x8000, 0x10000, 2 ^ 31, 2 ^ 32, 2 ^ 40, 2 ^ 52, 2 ^ 53 } do
  for step = -1, 1 do
    if border + step <= 2 ^ 53 then
      NUMBERS[#NUMBERS + 1], NUMBERS[#NUMBERS + 2] = border + step, -border - step
    end
  end
end

local LENGTHS = { 0, 1, 0x1f, 0x20, 0xff, 0x100, 0xffff, 0x10000 }

local function nested(levels)
  local value = {}
  for _ = 2, levels do
    value = { value }
  end
  return value
end

describe("serializer msgpack", function()
  it("gives every value back as it was", function()
    local values = { true, false, NULL, "", {}, { { {} } }, { 1, NULL, "x", false }, { a = { b = { c = NULL } } }, { [1] = "a", [3] = "c", [-1] = "m" },
      { "first", name = "x", [2.5] = "half", [2 ^ 53] = "large", [true] = "yes", [math.huge] = "inf" }, { ["\0\255"] = "\0\255\n" }, nested(32) }
    for _, n in ipairs(NUMBERS) do
      values[#values + 1] = n
    end
    for _, length in ipairs(LENGTHS) do
      values[#values + 1] = ("x"):rep(length)
      values[#values + 1] = ("\xff"):rep(length)
      local list, map = {}, {}
      for i = 1, length do
        list[i], map["k" .. i] = i % 200, true
      end
      values[#values + 1], values[#values + 2] = list, map
    end
    for i, value in ipairs(values) do
      local k1, bytes1, k2, bytes2 = c.encode(value, true)
      assert.equal(kind.MSGPACK, k2)
      for form, result in ipairs { { c.decode(k1, bytes1) }, { c.decode(k2, bytes2, true) }, { c.decode(k2, bytes2) } } do
        assert(result[1], result[2])
        assert(same(value, result[2]), ("value %d, form %d: %s"):format(i, form, hex(bytes2:sub(1, 40))))
      end
      local kind_alone, bytes_alone = c.encode(value, false)
      assert(kind_alone == k1 and bytes_alone == bytes1) -- without L2 the form for L1 is the same
    end
    assert.same({ kind.NIL, "", kind.NIL, "" }, { c.encode(nil, true) })
  end)

  it("writes the smallest form", function()
    for value, bytes in pairs {
      [0] = "00", [127] = "7f", [128] = "cc80", [256] = "cd0100", [65536] = "ce00010000", [2 ^ 32] = "cf0000000100000000", [-1] = "ff", [-32] = "e0",
      [-33] = "d0df", [-129] = "d1ff7f", [-32769] = "d2ffff7fff", [-2147483649] = "d3ffffffff7fffffff", [-2 ^ 53] = "d3ffe0000000000000",
      [0.5] = "cb3fe0000000000000", a = "a161", ["\xff"] = "c401ff", [true] = "c3", [false] = "c2",
    } do
      assert.equal(bytes, hex(msgpack.encode(value)))
    end
    assert.equal("cb8000000000000000", hex(msgpack.encode(-0.0)))
    assert.equal("c0", hex(msgpack.encode(NULL)))
    assert.equal("80", hex(msgpack.encode {}))
    assert.equal("9201c0", hex(msgpack.encode { 1, NULL }))
    assert.equal("81a16102", hex(msgpack.encode { a = 2 }))
  end)

  it("refuses what cannot be stored, and says where", function()
    local cyclic = {}
    cyclic.inner = { cyclic }
    for problem, value in pairs {
      ["value.f: cannot serialize a function"] = { f = print },
      ["value.inner[1]: cannot serialize a cycle (the table is the same as value)"] = cyclic,
      ["value: cannot serialize a thread"] = coroutine.create(print),
      ["value[1]: cannot serialize a cdata"] = { 5LL },
    } do
      for _, want_l2 in ipairs { true, false } do
        assert.same({ nil, problem }, { c.encode(value, want_l2) })
      end
    end
    assert.matches("nested more than 32 levels deep$", select(2, c.encode(nested(33), true)))
  end)

  it("reads what others write in longer forms", function()
    for bytes, value in pairs {
      ["cc01"] = 1, ["cd0001"] = 1, ["ce00000001"] = 1, ["cf0000000000000001"] = 1, ["d001"] = 1, ["d1ffff"] = -1, ["d2ffffffff"] = -1,
      ["d3ffffffffffffffff"] = -1, ["ca3f800000"] = 1, ["ca7f800000"] = math.huge, ["d90161"] = "a", ["da000161"] = "a", ["db0000000161"] = "a",
      ["c50001ff"] = "\xff", ["c600000001ff"] = "\xff", ["cf0020000000000000"] = 2 ^ 53,
    } do
      assert.same({ true, value }, { msgpack.decode(unhex(bytes)) })
    end
    for bytes, value in pairs { ["dc0001c3"] = { true }, ["dd00000001c3"] = { true }, ["de0001a161c3"] = { a = true }, ["df00000001a161c3"] = { a = true } } do
      assert.same({ true, value }, { msgpack.decode(unhex(bytes)) })
    end
  end)

  it("refuses malformed and hostile bytes within bounds", function()
    local early, parts = "it ends too early", "more parts than there can be"
    for bytes, problem in pairs {
      [""] = early, ["a1"] = early, ["cb00"] = early, ["d9"] = early, ["d902ff"] = early, ["dbffffffff"] = early, ["c6ffffffff00"] = early,
      ["91"] = parts, ["9201"] = parts, ["ddffffffff"] = parts, ["dfffffffff0000"] = parts, ["dc000200"] = parts, ["81a161"] = early .. "|" .. parts,
      ["c1"] = "a byte that begins nothing", ["d40161"] = "an extension type (0xd4)", ["c7010161"] = "an extension type (0xc7)",
      ["d6ff00000000"] = "an extension type (0xd6)", ["c0c0"] = "bytes after the value", ["0101"] = "bytes after the value",
      ["81c001"] = "a key that is no string, number or boolean", ["81ca7fc0000001"] = "a key that is no string, number or boolean",
      ["819001"] = "a key that is no string, number or boolean", ["cf0020000000000001"] = "an integer that a Lua number cannot hold",
      ["d3ffdfffffffffffff"] = "an integer that a Lua number cannot hold",
      ["cfffffffffffffffff"] = "an integer that a Lua number cannot hold", ["d38000000000000000"] = "an integer that a Lua number cannot hold",
    } do
      local ok, err = msgpack.decode(unhex(bytes))
      assert.is_false(ok)
      local found = false
      for one in (problem .. "|"):gmatch "(.-)|" do
        found = found or err == "malformed MessagePack: " .. one
      end
      assert(found, bytes .. ": " .. err)
    end
    for _, head in ipairs { "\x91", "\x81\xa0", "\xdc\0\1" } do
      assert.same({ false, "malformed MessagePack: tables nested too deep" }, { msgpack.decode(head:rep(100000) .. "\xc0") })
    end
    assert.same({ true, nested(32) }, { msgpack.decode(("\x91"):rep(31) .. "\x80") })
    assert.is_false((msgpack.decode(("\x91"):rep(32) .. "\x80")))
    local many = "\xdd" .. string.char(0, 64, 0, 0) .. ("\xc0"):rep(shape.MAX_NODES)
    assert.same({ false, "malformed MessagePack: more parts than there can be" }, { msgpack.decode(many) })
  end)

  it("reads any NaN as the plain one, so that no bytes pass for something else than a number", function()
    for _, bytes in ipairs { "cbffffffffffffffff", "cbfff9000000000001", "cb7ff0000000000001", "cbfff0000000000100", "caffffffff",
      "ca7f800001", "caff800100" } do
      local ok, value = msgpack.decode(unhex(bytes))
      assert.same({ true, "number", false }, { ok, type(value), value == value })
    end
    for bytes, value in pairs { ["cbfff0000000000000"] = -math.huge, ["cb7fefffffffffffff"] = 1.7976931348623157e308, ["caff800000"] = -math.huge } do
      assert.same({ true, value }, { msgpack.decode(unhex(bytes)) })
    end
  end)

  it("decodes or refuses whatever bytes there are, and what it decodes it can write", function()
    math.randomseed(7)
    local seeds = { (msgpack.encode { a = { 1, 2, { b = "text" } }, list = { 0.5, -7, NULL, "\xff" } }), (msgpack.encode { ("x"):rep(40), 2 ^ 40 }) }
    for i = 1, 5000 do
      local bytes = seeds[i % 2 + 1]
      for _ = 1, math.random(4) do
        local at = math.random(#bytes)
        bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + math.random(0, 2))
      end
      local ok, value = msgpack.decode(bytes)
      if ok then
        local again, back = msgpack.decode(assert(msgpack.encode(value)))
        assert(again and same(value, back), hex(bytes))
      else
        assert.matches("^malformed MessagePack: ", value)
        assert.is_nil(value:find("a table", 1, true)) -- no error of the interpreter
        assert.is_nil(value:find(".lua", 1, true))
      end
    end
  end)

  it("is read and written alike by another implementation", function()
    local program = [[
import msgpack, sys
for line in sys.stdin:
    value = msgpack.unpackb(bytes.fromhex(line), strict_map_key=False, raw=False)
    print(msgpack.packb(value).hex())
]]
    local values = { { list = { 1, NULL, "x", false } }, { ["\xc3\xa9"] = "\xff\0" }, { 1, 2, { { a = 0.1 } } }, ("\xc3\xa9"):rep(200), ("\xff"):rep(300) }
    for _, n in ipairs(NUMBERS) do
      values[#values + 1] = n
    end
    local lines = {}
    for i, value in ipairs(values) do
      lines[i] = hex(msgpack.encode(value))
    end
    local dir = helper.temp_dir()
    helper.write_file(dir .. "/program.py", program)
    helper.write_file(dir .. "/lines", table.concat(lines, "\n") .. "\n")
    local status, output = helper.process.run { "sh", "-c", "exec /usr/bin/python3 '" .. dir .. "/program.py' < '" .. dir .. "/lines'" }
    assert.equal(0, status, output)
    local i = 0
    for line in output:gmatch "%x+" do
      i = i + 1
      local ok, value = msgpack.decode(unhex(line))
      assert.is_true(ok)
      assert(same(values[i], value), lines[i] .. " came back as " .. line)
    end
    assert.equal(#values, i)
  end)
end)
