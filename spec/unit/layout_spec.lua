-- SPDX-License-Identifier: MIT
-- Layouts of C structs: what can be stored as bytes, and when two of them are the same.

local ffi = require "ffi"
local layout = require "gorge.ffi.layout"
local options = require "gorge.options"

ffi.cdef [[
  struct layout_user { double id; char name[16]; bool on; struct { int x : 3; unsigned y : 5; } bits; enum { LAYOUT_A, LAYOUT_B } e;
    union { int32_t i; uint32_t n; } u; struct { int16_t a1, a2; }; uint64_t z[2][3]; };
  typedef struct layout_user layout_user_t;
  struct layout_pointer { int n; struct { char *p; } inner; };
  struct layout_pointers { int n; void *p[4]; };
  struct layout_function { void (*f)(int); };
  struct layout_vla { int n; char s[?]; };
  struct layout_flexible { int n; char s[]; };
  struct layout_union { int n; union { int i; struct { float f; } inner; } u; };
  struct layout_opaque;
  struct layout_empty {};
  struct layout_large { char bytes[1048577]; };
]]

local function id(declaration)
  return assert(layout.new(ffi.typeof(declaration))).id
end

local function refusal(ctype)
  local ok, err = pcall(options.parse, { schema = ctype }, 0)
  assert.is_false(ok)
  return (err:gsub("^%S+:%d+: ", ""))
end

describe("a layout", function()
  local user = assert(layout.new(ffi.typeof "struct layout_user"))

  it("gives back every byte of a struct", function()
    local value = ffi.new "struct layout_user"
    for i = 0, ffi.sizeof(value) - 1 do
      ffi.cast("uint8_t *", value)[i] = i
    end
    local bytes = user:bytes(value)
    assert.equal(8 + ffi.sizeof "struct layout_user", #bytes)
    for _, copy in ipairs { user:parse(bytes), user:clone(value) } do
      assert.are_not.equal(value, copy)
      assert.equal(ffi.string(ffi.cast("char *", value), user.size), ffi.string(ffi.cast("char *", copy), user.size))
      assert.is_nil(user:check(copy))
    end
  end)

  it("takes no bytes of another size or id", function()
    local bytes = user:bytes(ffi.new "struct layout_user")
    assert.is_nil(user:parse(bytes .. "\0"))
    assert.is_nil(user:parse(bytes:sub(1, -2)))
    assert.is_nil(user:parse "")
    for i = 1, 8 do
      local other = bytes:sub(1, i - 1) .. string.char((bytes:byte(i) + 1) % 256) .. bytes:sub(i + 1)
      assert.is_nil(user:parse(other))
    end
  end)

  it("takes the struct itself, not what points to it", function()
    local value, list = ffi.new "struct layout_user", ffi.new "struct layout_user[2]"
    assert.is_nil(user:check(value))
    assert.is_nil(user:check(ffi.new "layout_user_t"))
    local cases = {
      ["struct layout_user &"] = list[0], ["struct layout_user *"] = ffi.cast("struct layout_user *", value),
      ["struct layout_user [2]"] = list, ["int64_t"] = 5LL,
    }
    for name, other in pairs(cases) do
      assert.equal("expected struct layout_user, got " .. name, user:check(other))
    end
    assert.equal("expected struct layout_user, got struct layout_user *", user:check(ffi.new "struct layout_user *"))
    assert.equal("expected struct layout_user, got table", user:check {})
  end)

  it("is that of the members, not of a name or of the way it is written", function()
    local one = id "struct { int32_t a; char b[4]; }"
    assert.equal(one, id "struct { int a; int8_t b[4]; }")
    assert.equal(one, id "struct { const int a; volatile char b[4]; }")
    assert.equal(user.id, id "layout_user_t")
    local seen = { [one] = "the first" }
    for _, other in ipairs {
      "struct { int32_t b; char a[4]; }", "struct { uint32_t a; char b[4]; }", "struct { float a; char b[4]; }", "struct { int32_t a; char b[8]; }",
      "struct { int32_t a; char b, c, d, e; }", "struct { char b[4]; int32_t a; }", "union { int32_t a; char b[4]; }", "union { int32_t a; char b[8]; }",
      "struct { int64_t a; char b[4]; }", "struct { int32_t a : 31; char b[4]; }", "struct { int32_t a; char b[2][2]; }",
      "struct { int32_t a; struct { char b[4]; }; }", "struct { int32_t a; struct { char b[4]; } c; }", "struct { int32_t a; bool b[4]; }",
      "struct { int32_t a; char b[4]; } __attribute__((aligned(16)))", "struct { char c; int32_t a; } __attribute__((packed))",
      "struct { char c; int32_t a; }", "struct { double a; }", "struct { complex a; }",
    } do
      assert.is_nil(seen[id(other)], other)
      seen[id(other)] = other
    end
  end)

  it("stays what it is: other programs of this machine read it", function()
    if ffi.abi "le" and ffi.abi "64bit" then
      local known = assert(layout.new(ffi.typeof "struct { double id; uint32_t n; }"))
      assert.equal("little;8;16{id@0:f8;n@8:u4;}", known.text)
      assert.equal("3cb634118dd51456", (known.id:gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
    end
  end)

  it("makes every NaN the plain one, so that no bytes pass for something else than a number", function()
    local form = "struct { char c; double d[2]; struct { float f[3]; complex z; } in[2]; int64_t i; }"
    local shape = assert(layout.new(ffi.typeof(form)))
    assert.same({ 2 + 2 * 2, 6 }, { shape.doubles, shape.floats })
    for _, byte in ipairs { "\xff", "\x7f", "\xfc" } do
      local value = shape:parse(shape.id .. byte:rep(shape.size))
      local numbers = { value.d[0], value.d[1], value["in"][0].f[0], value["in"][1].f[2], value["in"][1].z.im }
      for i = 1, 5 do -- not ipairs: what is no number may be nil
        assert.equal("number", type(numbers[i]))
        assert.equal(byte ~= "\xff", numbers[i] == numbers[i])
      end
      assert.equal(byte:rep(8), ffi.string(ffi.cast("char *", value) + ffi.offsetof(ffi.typeof(form), "i"), 8))
    end
    local value = ffi.new(shape.ctype)
    value.d = { -math.huge, 0 / 0 }
    local read = shape:parse(shape:bytes(value))
    assert.same({ -math.huge, true }, { read.d[0], read.d[1] ~= read.d[1] })
  end)

  it("is refused with the reason where bytes say nothing", function()
    local elsewhere = "it would mean nothing in another process or at another time"
    local endless = "has no fixed size; how long an array of variable length is cannot be told from a struct's bytes"
    for declaration, problem in pairs {
      ["struct layout_pointer"] = "struct layout_pointer.inner.p: is a pointer; " .. elsewhere,
      ["struct layout_pointers"] = "struct layout_pointers.p: is a pointer; " .. elsewhere,
      ["struct layout_function"] = "struct layout_function.f: is a pointer; " .. elsewhere,
      ["struct layout_vla"] = "struct layout_vla: " .. endless,
      ["struct layout_flexible"] = "struct layout_flexible.s: " .. endless,
      ["struct layout_union"] = "struct layout_union.u.inner.f: is a floating-point number in a union; "
        .. "the bytes of the other members might be none",
      ["struct layout_opaque"] = "struct layout_opaque: is not declared in full",
      ["struct layout_empty"] = "struct layout_empty: must have 1 to 1048576 bytes, has 0",
      ["struct layout_large"] = "struct layout_large: must have 1 to 1048576 bytes, has 1048577",
      ["const struct layout_user"] = "const struct layout_user: is qualified; name the struct without const or volatile",
      ["struct layout_user *"] = "struct layout_user *: is no struct",
      ["int"] = "int: is no struct",
      ["int[4]"] = "int [4]: is no struct",
    } do
      assert.equal("gorge: option 'schema': " .. problem, refusal(ffi.typeof(declaration)))
    end
    assert.matches("^gorge: option 'schema' must be .*, got a cdata$", refusal(ffi.new "struct layout_user"))
    assert.matches("^gorge: option 'schema' must be .*, got a cdata$", refusal(5LL))
  end)

  it("excludes a serializer", function()
    assert.has_error(function() options.parse({ schema = ffi.typeof "struct layout_user", serializer = "json" }, 0) end,
      "gorge: options 'schema' and 'serializer' exclude each other when the schema is a C struct: its bytes are stored as they are")
  end)
end)
