-- SPDX-License-Identifier: MIT
-- Schemas: what a definition may say, and what it finds in values.

local cjson = require "cjson"
local ffi = require "ffi"
local options = require "gorge.options"
local schema = require "gorge.schema"

local DEFINITION = {
  id = "number", name = "string", email = "string?", roles = { "string" }, active = "boolean", extra = "any?", age = "integer?",
  address = { street = "string", ["lines?"] = { { "string" } } }, ["parent?"] = { id = "number" }, bag = "table?",
}

local function value(changes)
  local out = { id = 7, name = "Ada", roles = { "admin", "user" }, active = true, address = { street = "Main" } }
  for name, change in pairs(changes or {}) do
    out[name] = change
  end
  return out
end

local function refusal(definition)
  local ok, err = pcall(options.parse, { schema = definition }, 0)
  assert.is_false(ok)
  return (err:gsub("^%S+:%d+: ", ""))
end

describe("a schema", function()
  local s = assert(schema.compile(DEFINITION))

  it("takes what fits", function()
    for _, good in ipairs {
      value(), value { email = "a@b" }, value { extra = 5 }, value { extra = cjson.null }, value { extra = { 1, { 2 } } }, value { age = 30 },
      value { address = { street = "", lines = { {}, { "a", "b" } } } }, value { parent = { id = 0 / 0 } }, value { roles = {} },
      value { bag = { [1.5] = true } }, value { id = math.huge },
    } do
      assert.is_nil(s:check(good))
      assert.is_nil(s:fit(good))
    end
  end)

  it("names the field that does not fit, what was expected and what is there", function()
    local cases = {
      ["value: expected table, got string"] = "Ada",
      ["value: expected table, got number"] = 5,
      ["value: expected table, got cdata"] = ffi.new "int *",
      ["id: expected number, got string"] = value { id = "7" },
      ["id: expected number, got userdata"] = value { id = cjson.null },
      ["active: expected boolean, got number"] = value { active = 0 },
      ["email: expected string, got boolean"] = value { email = false },
      ["age: expected integer, got number"] = value { age = 1.5 },
      ["roles: expected array, got string"] = value { roles = "admin" },
      ["roles[2]: expected string, got number"] = value { roles = { "admin", 5, "user" } },
      ["roles: expected array, got a table with gaps"] = value { roles = { "admin", [3] = "user" } },
      ['roles: expected array, got a table with the key "x"'] = value { roles = { x = "admin" } },
      ["roles: expected array, got a table with the key 0"] = value { roles = { [0] = "admin" } },
      ["address: expected table, got boolean"] = value { address = true },
      ["address.street: expected string, got nil"] = value { address = {} },
      ["address.lines[2][1]: expected string, got table"] = value { address = { street = "", lines = { {}, { {} } } } },
      ["parent.id: expected number, got nil"] = value { parent = {} },
      ["bag: expected table, got string"] = value { bag = "" },
      ["colour: not in the schema"] = value { colour = "red" },
      ['["a b"]: not in the schema'] = value { ["a b"] = "red" },
      ["[1]: not in the schema"] = value { "red" },
    }
    for problem, bad in pairs(cases) do
      assert.equal(problem, s:check(bad))
    end
    local nameless = value()
    nameless.name = nil
    assert.equal("name: expected string, got nil", s:check(nameless))
  end)

  it("looks at fields as they are, whatever a metatable says", function()
    local bad = setmetatable({ roles = { "a" } }, { __index = value() })
    assert.matches("^%a+: expected %a+, got nil$", s:check(bad))
  end)

  it("takes away what it does not know from a value that comes from elsewhere", function()
    local newer = value { phone = "1", address = { street = "Main", zip = "2" } }
    assert.is_nil(s:fit(newer))
    assert.same(value(), newer)
    assert.equal("roles[1]: expected string, got number", s:fit(value { roles = { 1 } }))
  end)

  it("may be an array, of scalars or of tables", function()
    local list = assert(schema.compile { { id = "number" } })
    assert.is_nil(list:check { { id = 1 }, { id = 2 } })
    assert.equal("[2].id: expected number, got nil", list:check { { id = 1 }, {} })
    assert.equal("[1]: expected string, got number", assert(schema.compile { "string" }):check { 1 })
  end)

  it("is the same whatever order it is written in, and another one when anything differs", function()
    local function text(definition)
      return assert(schema.compile(definition)).text
    end
    local one = text { a = "string", b = "number?", c = { "any" } }
    assert.equal(one, text { c = { "any" }, ["b?"] = "number", a = "string" } and text { b = "number?", c = { "any" }, a = "string" })
    local seen = { [one] = true }
    for _, other in ipairs {
      { a = "string", b = "number", c = { "any" } }, { a = "string", b = "integer?", c = { "any" } }, { a = "string", c = { "any" } },
      { a = "string", b = "number?", c = { "table" } }, { a = "string", b = "number?", c = "any" }, { aa = "string", b = "number?", c = { "any" } },
      { ['a":string,"x'] = "string" }, { a = "string", x = "string" },
    } do
      assert.is_nil(seen[text(other)])
      seen[text(other)] = true
    end
  end)

  it("is not changed when its definition is", function()
    local definition = { id = "number" }
    local compiled = assert(schema.compile(definition))
    definition.id = "string"
    assert.is_nil(compiled:check { id = 1 })
  end)

  it("that is malformed is refused with the place", function()
    local words = '"string", "number", "integer", "boolean", "table", "any", one of these with "?", a table of fields or { an element }'
    local cyclic = {}
    cyclic.inner = cyclic
    local cases = {
      { {}, 'schema: has no fields; "table" is any table' },
      { { a = {} }, 'schema.a: has no fields; "table" is any table' },
      { { a = "str" }, "schema.a: must be " .. words .. ', got "str"' },
      { { a = "?" }, "schema.a: must be " .. words .. ', got "?"' },
      { { a = { b = true } }, "schema.a.b: must be " .. words .. ", got true" },
      { { { "number", "string" } }, "schema[1]: an array has one element, that of all its places, and no fields" },
      { { "string", name = "string" }, "schema: an array has one element, that of all its places, and no fields" },
      { { roles = { "string?" } }, "schema.roles[1]: an element of an array cannot be absent" },
      { { [2] = "string" }, "schema: a field is named by a string, got 2" },
      { { ["a?"] = "string", a = "string" }, "schema.a: stands twice, with a question mark and without" },
      { cyclic, "schema" .. (".inner"):rep(32) .. ": is nested more than 32 levels deep" },
    }
    for _, case in ipairs(cases) do
      assert.equal("gorge: option 'schema': " .. case[2], refusal(case[1]))
    end
    for _, none in ipairs { 5, true, "string", print } do
      assert.matches("^gorge: option 'schema' must be a table such as { .* } or a C struct as ffi.typeof returns it, got ", refusal(none))
    end
  end)

  it("goes with serializers that store tables", function()
    for _, serializer in ipairs { "auto", "json", "msgpack", { name = "mine", encode = tostring, decode = tostring } } do
      assert.equal("{\"id\":number}", options.parse({ schema = { id = "number" }, serializer = serializer }).schema.text)
    end
    assert.has_error(function() options.parse({ schema = { id = "number" }, serializer = "string" }, 0) end,
      "gorge: option 'schema' needs a serializer that stores tables, got \"string\"")
  end)
end)
