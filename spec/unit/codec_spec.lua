-- SPDX-License-Identifier: MIT
-- Values to bytes and back: what is stored comes back as it was, or is refused by name.

local cjson = require "cjson"
local codec = require "gorge.codec"
local ffi = require "ffi"
local shape = require "gorge.codec.shape"

local kind = codec.kind
local auto, json, plain = codec.new("auto"), codec.new("json"), codec.new("string")
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
    local other = rawget(b, k)
    if other == nil or not same(v, other) then
      return false
    end
  end
  for k in next, b do
    if rawget(a, k) == nil then
      return false
    end
  end
  return true
end

---What a hit in L1 does with a table: the bytes stand in memory, others behind them.
local function decode_memory(c, bytes)
  local memory = ffi.new("char[?]", #bytes + 8, bytes)
  return c.decode_memory(memory, #bytes)
end

---Encodes, decodes both forms, and also the L2 bytes as they would be read from L1.
local function round_trip(c, value)
  local k1, bytes1, k2, bytes2 = c.encode(value, true)
  assert(k1, bytes1)
  local results = { { c.decode(k1, bytes1) }, { c.decode(k2, bytes2, true) }, { c.decode(k2, bytes2) } }
  if k1 == kind.BUFFER then
    results[4] = { decode_memory(c, bytes1) }
  end
  for i, result in ipairs(results) do
    assert(result[1], result[2])
    if not same(value, result[2]) then
      error(("form %d of %s is not what was stored: %s"):format(i, tostring(value), bytes2), 2)
    end
  end
  return k1, bytes1, k2, bytes2
end

local ALL_BYTES = {}
for code = 0, 255 do
  ALL_BYTES[code + 1] = string.char(code)
end
ALL_BYTES = table.concat(ALL_BYTES)

local NUMBERS = {
  0, -0.0, 1, -1, 0.1, 0.1 + 0.2, 1 / 3, 2 ^ 31, 2 ^ 32, 2 ^ 52 + 1, 2 ^ 53, -2 ^ 53, 2 ^ 53 - 1, 99999999999999, 100000000000001,
  999999999999999, 1e15, 1e16, 1e100, 1.7976931348623157e308, 2.2250738585072014e-308, 5e-324, 4.9406564584124654e-321, 1700000000.123456,
}

local function nested(levels)
  local value = {}
  for _ = 2, levels do
    value = { value }
  end
  return value
end

describe("codec kinds", function()
  it("are the numbers that L1 and Redis hold", function()
    assert.same({ NIL = 0, STRING = 1, NUMBER = 2, BOOLEAN = 3, JSON = 4, BUFFER = 5, CUSTOM = 6, STRUCT = 7, TYPED = 8, MSGPACK = 9,
      PACKED = 10 }, kind)
  end)
end)

describe("serializer auto", function()
  it("stores nil as 'no such thing' without bytes", function()
    assert.same({ kind.NIL, "", kind.NIL, "" }, { auto.encode(nil, true) })
    assert.same({ true, nil, n = 2 }, { n = select("#", auto.decode(kind.NIL, "")), auto.decode(kind.NIL, "") })
  end)

  it("stores strings as they are, whatever their bytes", function()
    for _, s in ipairs { "", "a", ALL_BYTES, "\0", '{"a":1}', "null" } do
      local k1, bytes1, k2, bytes2 = round_trip(auto, s)
      assert.same({ kind.STRING, s, kind.STRING, s }, { k1, bytes1, k2, bytes2 })
    end
  end)

  it("keeps every digit of numbers, the sign of zero, infinities and NaN", function()
    for _, n in ipairs(NUMBERS) do
      assert.equal(kind.NUMBER, (round_trip(auto, n)))
      round_trip(auto, -n)
    end
    for _, n in ipairs { math.huge, -math.huge, 0 / 0 } do
      round_trip(auto, n)
    end
    assert.equal("9007199254740992", select(2, auto.encode(2 ^ 53)))
    assert.equal("0.30000000000000004", select(2, auto.encode(0.1 + 0.2)))
    assert.equal("0.1", select(2, auto.encode(0.1)))
    assert.equal("nan", select(2, auto.encode(0 / 0)))
    assert.equal("nan", select(2, auto.encode(-(0 / 0))))
  end)

  it("stores true and false", function()
    assert.same({ kind.BOOLEAN, "t", kind.BOOLEAN, "t" }, { round_trip(auto, true) })
    assert.same({ kind.BOOLEAN, "f", kind.BOOLEAN, "f" }, { round_trip(auto, false) })
  end)

  it("stores tables as buffer in L1 and as JSON for everybody in L2", function()
    local k1, _, k2, bytes2 = round_trip(auto, { id = 7, name = "é", roles = { "a", "b" }, ok = false })
    assert.equal(kind.BUFFER, k1)
    assert.equal(kind.JSON, k2)
    assert.same({ id = 7, name = "é", roles = { "a", "b" }, ok = false }, cjson.decode(bytes2))
  end)

  it("writes no L2 form of a table when nobody wants it", function()
    local k1, bytes1, k2, bytes2 = auto.encode({ 1 })
    assert.equal(kind.BUFFER, k1)
    assert.is_string(bytes1)
    assert.is_nil(k2)
    assert.is_nil(bytes2)
  end)

  it("keeps empty tables, false, nulls and numbers inside tables", function()
    round_trip(auto, {})
    round_trip(auto, { {}, { {} }, a = {} })
    round_trip(auto, { false, true, { x = false } })
    round_trip(auto, { NULL, a = NULL, b = { NULL, 1, NULL } })
    round_trip(auto, NULL)
    round_trip(auto, NUMBERS)
    round_trip(auto, { 0 / 0, math.huge, -math.huge, x = { y = 0 / 0 } })
  end)

  it("keeps the keys of tables that JSON has no word for", function()
    round_trip(auto, { 1, 2, nil, 4 })
    round_trip(auto, { [3] = "x" })
    round_trip(auto, { [1000000] = "x", [0] = "zero", [-1] = "minus", [1.5] = "fraction", [math.huge] = "inf" })
    round_trip(auto, { "array", "part", name = "hash part", { [2] = true } })
    round_trip(auto, { [true] = 1, [false] = 2 })
    round_trip(auto, { ["1"] = "string key", [1] = "number key" })
    round_trip(auto, { ["1"] = "string key" })
    round_trip(auto, { [2 ^ 53] = 1, [0.1 + 0.2] = 2, [-2 ^ 53] = 3 })
    round_trip(auto, { [true] = 1, [2] = 2 })
    round_trip(auto, { [""] = 1 })
  end)

  it("keeps strings that are not UTF-8, as values and as keys, in JSON that is valid", function()
    local value = { ALL_BYTES, [ALL_BYTES] = ALL_BYTES, list = { "\255", "\192\128", "\237\160\128", "\244\144\128\128", "ok" } }
    local _, _, _, bytes2 = round_trip(auto, value)
    assert.is_true(require("gorge.text").is_utf8(bytes2))
    _, _, _, bytes2 = round_trip(auto, { key = "\255" })
    assert.equal([[{"key":{"\u0000gorge":["bytes","ÿ"]}}]], bytes2)
  end)

  it("keeps tables that look like its own escapes", function()
    round_trip(auto, { ["\0gorge"] = { "nan" } })
    round_trip(auto, { ["\0gorge"] = { "table", 1, 2 }, other = 1 })
    round_trip(auto, { a = { ["\0gorge"] = { ["\0gorge"] = "x" } } })
    round_trip(auto, { "\0gorge", x = "\0gorge" })
    round_trip(auto, { "nan", { "table", "a", 1 }, 0 / 0 })
    round_trip(auto, { [[\u0000gorge]], ['"\\u0000gorge"'] = 1 })
  end)

  it("writes its escapes byte for byte as its header says", function()
    local function l2(value)
      return (select(4, auto.encode(value, true)))
    end
    assert.equal([=[[{"\u0000gorge":["nan"]},{"\u0000gorge":["inf"]},{"\u0000gorge":["-inf"]}]]=], l2 { 0 / 0, math.huge, -math.huge })
    assert.equal([=[{"\u0000gorge":["table",2,"b"]}]=], l2 { [2] = "b" })
    assert.equal([=[{"\u0000gorge":["table","\u0000gorge",1]}]=], l2 { ["\0gorge"] = 1 })
    assert.equal([=[[0.30000000000000004,9007199254740992,-0]]=], l2 { 0.1 + 0.2, 2 ^ 53, -0.0 })
  end)

  it("takes a table twice when it is no cycle", function()
    local shared = { 1, 2 }
    round_trip(auto, { shared, shared, x = shared })
  end)

  it("ignores metatables", function()
    local value = setmetatable({ 1, 2, x = 3 }, { __index = { y = 4 }, __pairs = error, __len = error })
    local k1, bytes1, k2, bytes2 = auto.encode(value, true)
    assert.same({ true, { 1, 2, x = 3 } }, { auto.decode(k1, bytes1) })
    assert.same({ true, { 1, 2, x = 3 } }, { auto.decode(k2, bytes2, true) })
  end)

  it("leaves the value as it was", function()
    local value = { 0 / 0, { [2] = "\255" } }
    auto.encode(value, true)
    assert.is_true(same({ 0 / 0, { [2] = "\255" } }, value))
  end)

  it("takes tables up to its depth and no deeper, in both forms", function()
    round_trip(auto, nested(codec.MAX_DEPTH))
    local escaped = { [2] = 0 / 0 }
    for _ = 2, codec.MAX_DEPTH do
      escaped = { [2] = escaped }
    end
    round_trip(auto, escaped)
    for _, want_l2 in ipairs { true, false } do
      local k, err = auto.encode(nested(codec.MAX_DEPTH + 1), want_l2)
      assert.is_nil(k)
      assert.matches("^value" .. ("%[1%]"):rep(32) .. ": cannot serialize tables nested more than 32 levels deep$", err)
    end
  end)
end)

describe("what cannot be stored", function()
  local cases = {
    { { user = { roles = { "a", "b", print } } }, "value.user.roles[3]: cannot serialize a function" },
    { print, "value: cannot serialize a function" },
    { io.stdout, "value: cannot serialize a userdata" },
    { { co = coroutine.create(print) }, "value.co: cannot serialize a thread" },
    { { id = 1LL }, "value.id: cannot serialize a cdata" },
    { { ["a b"] = { [1.5] = { [true] = print } } }, 'value["a b"][1.5][true]: cannot serialize a function' },
    { { ["\0\n"] = print }, 'value["\\x00\\x0a"]: cannot serialize a function' },
    { { x = { [{}] = 1 } }, "value.x: cannot serialize a table key that is a table" },
    { { x = { [NULL] = 1 } }, "value.x: cannot serialize a table key that is a userdata" },
    { { x = { [print] = 1 } }, "value.x: cannot serialize a table key that is a function" },
  }

  it("is refused by the path to it and its type", function()
    for _, case in ipairs(cases) do
      for _, want_l2 in ipairs { true, false } do
        local k, err = auto.encode(case[1], want_l2)
        assert.is_nil(k)
        assert.equal(case[2], err)
      end
    end
  end)

  it("is refused by serializer json too", function()
    for i = 1, 7 do
      local k, err = json.encode(cases[i][1], true)
      assert.is_nil(k)
      assert.matches("cannot", err)
    end
  end)

  it("is other light userdata than null", function()
    local ok, pointer = pcall(function()
      return debug.upvalueid(function() return cases end, 1)
    end)
    assert.is_true(ok)
    local k, err = auto.encode({ pointer })
    assert.is_nil(k)
    assert.equal("value[1]: cannot serialize a userdata", err)
  end)

  it("is a null pointer of the FFI, which is not nil", function()
    for _, c in ipairs { auto, json, plain } do
      local k, err = c.encode(ffi.new("void *"))
      assert.is_nil(k)
      assert.matches("cdata", err)
    end
  end)

  it("is a cycle, named by both ends", function()
    local value = { a = { b = {} } }
    value.a.b.c = value.a
    local k, err = auto.encode(value, true)
    assert.is_nil(k)
    assert.equal("value.a.b.c: cannot serialize a cycle (the table is the same as value.a)", err)
    local me = {}
    me[1] = me
    assert.equal("value[1]: cannot serialize a cycle (the table is the same as value)", select(2, json.encode(me)))
  end)

  it("is a small table that stands for more parts than anybody can store", function()
    local value = { 1 }
    for _ = 2, 30 do
      value = { value, value }
    end
    local k, err = auto.encode(value)
    assert.is_nil(k)
    assert.matches("more than " .. codec.MAX_NODES .. " parts$", err)
  end)

  it("does not spoil what is stored next, nor keep it alive", function()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local bad = { deep = { deep = { print } } }
      weak[1] = bad
      assert.is_nil((auto.encode(bad)))
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    round_trip(auto, { deep = { deep = { 1 } } })
  end)
end)

describe("serializer json", function()
  it("writes plain JSON for other programs, scalars too", function()
    local cases = {
      { "a\"b\0é", [["a\"b\u0000é"]] }, { 1.5, "1.5" }, { 2 ^ 53, "9007199254740992" }, { -0.0, "-0" }, { true, "true" }, { false, "false" },
      { NULL, "null" }, { {}, "{}" }, { { 1, 0.1 + 0.2, NULL, "x" }, [=[[1,0.30000000000000004,null,"x"]]=] }, { { a = { b = {} } }, [[{"a":{"b":{}}}]] },
    }
    for _, case in ipairs(cases) do
      local _, _, k2, bytes2 = round_trip(json, case[1])
      assert.equal(kind.JSON, k2)
      assert.equal(case[2], bytes2)
    end
    assert.same({ kind.NIL, "", kind.NIL, "" }, { json.encode(nil, true) })
  end)

  it("keeps numbers and strings with any bytes exactly", function()
    round_trip(json, NUMBERS)
    for _, n in ipairs(NUMBERS) do
      round_trip(json, n)
    end
    round_trip(json, ALL_BYTES)
    round_trip(json, { [ALL_BYTES] = { ALL_BYTES, 0.1 + 0.2 } })
  end)

  it("refuses by path what JSON cannot express, whether L2 is wanted or not", function()
    local cases = {
      { 0 / 0, "value: JSON cannot express the number nan" },
      { { x = { math.huge } }, "value.x[1]: JSON cannot express the number inf" },
      { { -math.huge }, "value[1]: JSON cannot express the number -inf" },
      { { x = { 1, nil, 3 } }, "value.x: JSON cannot express a table whose keys are neither all strings nor 1 to n without a gap" },
      { { 1, a = 2 }, "value: JSON cannot express a table whose keys are neither all strings nor 1 to n without a gap" },
      { { [true] = 1, [2] = 2 }, "value: JSON cannot express a table whose keys are neither all strings nor 1 to n without a gap" },
      { { [1000000] = 1 }, "value: JSON cannot express a table whose keys are neither all strings nor 1 to n without a gap" },
    }
    for _, case in ipairs(cases) do
      for _, want_l2 in ipairs { true, false } do
        local k, err = json.encode(case[1], want_l2)
        assert.is_nil(k)
        assert.equal(case[2], err)
      end
    end
  end)

  it("knows no escapes: the key of the extended form is a key like any other", function()
    round_trip(json, { ["\0gorge"] = { "nan" } })
  end)

  it("writes tables with a metatable of a JSON library by what is in them", function()
    local value = setmetatable({ 1, 2 }, { __index = function() error("touched") end })
    local _, _, _, bytes2 = json.encode(value, true)
    assert.equal("[1,2]", bytes2)
  end)
end)

describe("serializer string", function()
  it("stores strings and nil", function()
    round_trip(plain, ALL_BYTES)
    assert.same({ kind.NIL, "", kind.NIL, "" }, { plain.encode(nil, true) })
    assert.same({ true }, { plain.decode(kind.NIL, "") })
  end)

  it("refuses all else by its type", function()
    for _, value in ipairs { 1, true, {}, NULL } do
      local k, err = plain.encode(value)
      assert.is_nil(k)
      assert.equal("value: serializer 'string' stores strings only, cannot serialize a " .. type(value), err)
    end
    assert.is_nil((plain.encode(false)))
    assert.is_false((plain.decode(kind.JSON, "1")))
  end)
end)

describe("a custom serializer", function()
  local function make(encode, decode)
    return codec.new { name = "mine", encode = encode, decode = decode }
  end

  it("gets values and bytes, nil stays with the cache", function()
    local mine = make(function(value) return "<" .. value.x .. ">" end, function(bytes) return { x = bytes:match("<(.*)>") } end)
    assert.same({ kind.CUSTOM, "<7>", kind.CUSTOM, "<7>" }, { mine.encode({ x = 7 }, true) })
    assert.same({ true, { x = "7" } }, { mine.decode(kind.CUSTOM, "<7>", true) })
    assert.same({ kind.NIL, "", kind.NIL, "" }, { mine.encode(nil) })
    assert.same({ true }, { mine.decode(kind.NIL, "") })
    assert.equal("mine", mine.name)
  end)

  it("may raise, return errors or wrong types without harm", function()
    local function reason_of_encode(encode)
      local k, err = make(encode, tostring).encode({})
      assert.is_nil(k)
      return err
    end
    assert.equal("serializer 'mine': encode raised: boom\\x0a", reason_of_encode(function() error("boom\n", 0) end))
    assert.equal("serializer 'mine': encode raised: a table", reason_of_encode(function() error({}) end))
    assert.equal("serializer 'mine': encode failed on a value of type table: too odd", reason_of_encode(function() return nil, "too odd" end))
    assert.equal("serializer 'mine': encode must return a string, got 5", reason_of_encode(function() return 5 end))
    local function reason_of_decode(decode)
      local ok, err = make(tostring, decode).decode(kind.CUSTOM, "x")
      assert.is_false(ok)
      return err
    end
    assert.equal("serializer 'mine': decode raised: boom", reason_of_decode(function() error("boom", 0) end))
    assert.equal("serializer 'mine': decode failed: short", reason_of_decode(function() return nil, "short" end))
    assert.equal("serializer 'mine': decode failed: no reason given", reason_of_decode(function() end))
  end)

  it("may decode to false", function()
    assert.same({ true, false }, { make(tostring, function() return false end).decode(kind.CUSTOM, "x") })
  end)

  it("gets no bytes that another serializer wrote", function()
    local ok, err = make(tostring, tostring).decode(kind.BUFFER, "x")
    assert.is_false(ok)
    assert.matches("kind 5, which another serializer wrote", err)
  end)
end)

describe("bytes from elsewhere", function()
  local function refused(c, k, bytes)
    local ok, err = c.decode(k, bytes, true)
    assert.is_false(ok)
    assert.is_string(err)
  end

  it("are never decoded as buffer when Redis sent them", function()
    local _, bytes1 = auto.encode({ 1 })
    refused(auto, kind.BUFFER, bytes1)
    refused(json, kind.BUFFER, bytes1)
  end)

  it("are refused when a buffer in L1 is damaged, however often", function()
    local _, bytes1 = auto.encode({ a = { "long enough", 1, 2, 3 } })
    for cut = 0, #bytes1 - 1 do
      assert.is_false((auto.decode(kind.BUFFER, bytes1:sub(1, cut))))
      assert.is_false((decode_memory(auto, bytes1:sub(1, cut))))
    end
    assert.is_false((decode_memory(auto, bytes1 .. bytes1))) -- more than one value
    for _ = 1, 300 do -- past the point where the loop is compiled
      assert.is_false((auto.decode(kind.BUFFER, "\9\255")))
      assert.is_true((auto.decode(kind.BUFFER, bytes1)))
      assert.is_false((decode_memory(auto, "\9\255")))
      assert.is_true((decode_memory(auto, bytes1)))
    end
  end)

  it("are refused when they are no number, boolean, JSON or known kind", function()
    for _, bytes in ipairs { "", "x", "0x10", " 1", "1 ", "1..2", "--1", "5LL", "1i", "NaN", "infinity", "1\0" } do
      refused(auto, kind.NUMBER, bytes)
    end
    for _, bytes in ipairs { "", "true", "T", "1" } do
      refused(auto, kind.BOOLEAN, bytes)
    end
    for _, bytes in ipairs { "", " ", "{", "[1,]", "nan", "0x10", "[1] x", "[1]\0x", '"\\ud800"', "nul", "[Infinity]" } do
      refused(auto, kind.JSON, bytes)
      refused(json, kind.JSON, bytes)
    end
    refused(auto, kind.CUSTOM, "x")
    refused(auto, 15, "x")
    refused(auto, -1, "x")
  end)

  it("are refused when their escapes are malformed", function()
    local escapes = {
      '1', '"nan"', '[]', '{}', '["nam"]', '["nan",1]', '["bytes"]', '["bytes",1]', '["bytes","\196\128"]', '["bytes","a","b"]', '["table",1]',
      '["table",null,1]', '["table",{},1]', '["table",{"\\u0000gorge":["nan"]},1]', '["table",{"\\u0000gorge":["oops"]},1]',
      '["table",1,{"\\u0000gorge":["oops"]}]', '[null]', '[["nan"]]', '[1]',
    }
    for _, escape in ipairs(escapes) do
      refused(auto, kind.JSON, '{"\\u0000gorge":' .. escape .. "}")
      refused(auto, kind.JSON, '{"a":[{"\\u0000gorge":' .. escape .. "}]}")
    end
    refused(auto, kind.JSON, '{"\\u0000gorge":["nan"],"b":1}')
  end)

  it("are refused when they are nested too deep", function()
    local function brackets(n)
      return ("["):rep(n) .. ("]"):rep(n)
    end
    assert.is_true((auto.decode(kind.JSON, brackets(codec.MAX_DEPTH), true)))
    refused(auto, kind.JSON, brackets(codec.MAX_DEPTH + 1))
    refused(json, kind.JSON, brackets(codec.MAX_DEPTH + 1))
    refused(auto, kind.JSON, brackets(100000))
    refused(auto, kind.JSON, '[{"\\u0000gorge":["nan"]},' .. brackets(codec.MAX_DEPTH) .. "]")
    refused(auto, kind.JSON, ('{"\\u0000gorge":["table",2,'):rep(33) .. "1" .. ("]}"):rep(33))
    refused(auto, kind.JSON, ('{"\\u0000gorge":["table",'):rep(5000))
  end)

  it("of serializer json are read by auto, and native ones by json", function()
    assert.same({ true, "x" }, { auto.decode(kind.JSON, '"x"', true) })
    assert.same({ true, false }, { auto.decode(kind.JSON, "false", true) })
    assert.same({ true, 7 }, { json.decode(kind.NUMBER, "7", true) })
    assert.same({ true, { NULL, 1 } }, { json.decode(kind.JSON, "[null,1]", true) })
  end)

  it("never make the decoder raise, whatever is changed in them", function()
    math.randomseed(11)
    local _, _, _, good = auto.encode({ 1, 0.5, "\255", { [2] = 0 / 0, x = { true, NULL } }, k = { 1, 2 } }, true)
    for _ = 1, 3000 do
      local at = math.random(#good)
      local bytes = good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + math.random(0, 2))
      local ok, value = auto.decode(kind.JSON, bytes, true)
      if not ok then
        assert.is_string(value)
      end
    end
  end)
end)

describe("random values", function()
  local random = math.random

  local function random_double()
    local raw = ffi.new("union { uint8_t b[8]; double d; }")
    for i = 0, 7 do
      raw.b[i] = random(0, 255)
    end
    if random(4) == 1 then -- subnormal
      raw.b[7] = random(2) == 1 and 0 or 128
      raw.b[6] = random(0, 15)
    elseif raw.b[7] % 128 == 127 and raw.b[6] >= 240 then
      raw.b[6] = 239 -- no NaN: one with random bits is no Lua number, the VM keeps its type tags there
    end
    return tonumber(raw.d)
  end

  local function random_number()
    local pick = random(6)
    if pick == 1 then
      return random_double()
    elseif pick == 2 then
      return random(-1000, 1000)
    elseif pick == 3 then
      return random(0, 2 ^ 30) * 2 ^ 23 + random(0, 2 ^ 23)
    elseif pick == 4 then
      return NUMBERS[random(#NUMBERS)] * (random(2) == 1 and 1 or -1)
    elseif pick == 5 then
      return random(1000000) / 1000
    end
    return random() * 10 ^ random(-20, 20)
  end

  local function random_string()
    local pick = random(5)
    if pick == 1 then
      return ({ "", "\0gorge", "é€😀", "table", "bytes", "nan", ALL_BYTES })[random(7)]
    end
    local chars = {}
    for i = 1, random(0, 12) do
      chars[i] = string.char(pick == 2 and random(0, 255) or random(32, 126))
    end
    return table.concat(chars)
  end

  local random_value

  local function random_key(strict)
    local pick = random(5)
    if strict or pick <= 2 then
      return random_string()
    elseif pick == 3 then
      return random(-3, 12)
    elseif pick == 4 then
      return random(2) == 1
    end
    local key = random_number()
    return key == key and key or 1
  end

  function random_value(depth, strict)
    local pick = random(depth > 4 and 8 or 12)
    if pick <= 3 then
      local n = random_number()
      return (strict and n - n ~= 0) and 0 or n
    elseif pick <= 6 then
      return random_string()
    elseif pick == 7 then
      return random(2) == 1
    elseif pick == 8 then
      return random(3) == 1 and NULL or (not strict and random(3) == 1 and 0 / 0 or random_string())
    end
    local t = {}
    if pick <= 10 then
      for i = 1, random(0, 5) do
        t[i] = random_value(depth + 1, strict)
      end
    else
      for _ = 1, random(0, 5) do
        t[random_key(strict)] = random_value(depth + 1, strict)
      end
    end
    return t
  end

  it("round-trip exactly through both forms of auto", function()
    math.randomseed(20240229)
    for _ = 1, 3000 do
      round_trip(auto, random_value(1, false))
    end
  end)

  it("round-trip exactly through both forms of json", function()
    math.randomseed(977)
    for _ = 1, 3000 do
      round_trip(json, random_value(1, true))
    end
  end)

  it("keep every digit of random doubles", function()
    math.randomseed(5)
    for _ = 1, 3000 do
      local n = random_double()
      local k, bytes = auto.encode(n)
      local _, back = auto.decode(k, bytes, true)
      assert(same(n, back), bytes)
      if n - n == 0 then
        local list = { n, "\255" }
        local _, _, k2, bytes2 = auto.encode(list, true)
        assert(same(list, select(2, auto.decode(k2, bytes2, true))), bytes2)
      end
    end
  end)
end)

describe("surroundings", function()
  it("keep their own settings of cjson", function()
    assert.equal(14, cjson.encode_number_precision())
    assert.equal(1000, cjson.decode_max_depth())
    assert.is_true(cjson.decode_invalid_numbers())
    assert.is_true(cjson.encode_keep_buffer())
  end)

  it("may lack string.buffer: L1 then holds JSON", function()
    local loaded = package.loaded["string.buffer"]
    package.loaded["string.buffer"], package.loaded["gorge.codec"] = nil, nil
    package.preload["string.buffer"] = function() error("no string.buffer") end
    local ok, without = pcall(require, "gorge.codec")
    package.preload["string.buffer"] = nil
    package.loaded["string.buffer"], package.loaded["gorge.codec"] = loaded, codec
    assert.is_true(ok)
    for _, name in ipairs { "auto", "json" } do
      local c = without.new(name)
      local k1, bytes1, k2, bytes2 = round_trip(c, { 1, { a = 2 ^ 53 } })
      assert.same({ kind.JSON, kind.JSON }, { k1, k2 })
      assert.equal(bytes1, bytes2)
      assert.equal(kind.JSON, (c.encode({ 1 })))
    end
    assert.is_false((without.new("auto").decode(kind.BUFFER, "x")))
    round_trip(without.new("auto"), { [2] = 0 / 0 })
  end)

  it("find the limits of the walk documented", function()
    assert.equal(32, codec.MAX_DEPTH)
    assert.equal(shape.MAX_NODES, codec.MAX_NODES)
  end)
end)
