-- SPDX-License-Identifier: MIT
-- Schemas: what the values of a typed cache look like. A definition is compiled once, into a tree of nodes that a walk over a value follows.
--
--   { id = "number", name = "string", email = "string?", roles = { "string" }, address = { street = "string" } }
--
-- A node is { what = for people, test = function(value) } for a scalar, { what =, element = node } for an array, and { what =, fields =, names = } for a
-- table with fields; `optional` when the value may be absent.

local shape = require "gorge.codec.shape"
local text = require "gorge.text"

local concat = table.concat
local floor = math.floor
local match = string.match
local next = next
local rawget = rawget
local sub = string.sub
local type = type

local _M = {}

local MAX_DEPTH = shape.MAX_DEPTH
local MAX_FIELDS = 1000

local function is(kind)
  return function(value) return type(value) == kind end
end

local WORDS = {
  any = function(value) return type(value) ~= "nil" end, -- not `~= nil`: a null pointer of the FFI compares equal
  string = is "string",
  number = is "number",
  integer = function(value) return type(value) == "number" and floor(value) == value and value - value == 0 end,
  boolean = is "boolean",
  table = is "table",
}
local ACCEPTS = '"string", "number", "integer", "boolean", "table", "any", one of these with "?", a table of fields or { an element }'

---@class gorge.SchemaNode
---@field what string
---@field text string the definition in one form, whatever order it was written in
---@field optional boolean
---@field test nil|fun(value: any): boolean
---@field element nil|gorge.SchemaNode
---@field fields nil|table<string, gorge.SchemaNode>
---@field names nil|string[] those that must be there

local compile

local function compile_word(word, path)
  local base, mark = match(word, "^(%a+)(%??)$")
  if not base or not WORDS[base] then
    return nil, path .. ": must be " .. ACCEPTS .. ", got " .. text.describe(word)
  end
  return { what = base, text = word, optional = mark ~= "", test = WORDS[base] }
end

local function compile_array(definition, path, depth)
  if next(definition, next(definition)) ~= nil then
    return nil, path .. ": an array has one element, that of all its places, and no fields"
  end
  local element, problem = compile(definition[1], path .. "[1]", depth + 1)
  if not element then
    return nil, problem
  elseif element.optional then
    return nil, path .. "[1]: an element of an array cannot be absent"
  end
  return { what = "array", text = "{" .. element.text .. "}", optional = false, element = element }
end

local function compile_fields(definition, path, depth)
  local fields, names, texts = {}, {}, {}
  for key, inner in next, definition do
    if type(key) ~= "string" or key == "" or key == "?" then
      return nil, path .. ": a field is named by a string, got " .. text.describe(key)
    end
    local name, mark = key, false
    if sub(key, -1) == "?" then
      name, mark = sub(key, 1, -2), true
    end
    local node, problem = compile(inner, text.member(path, name), depth + 1)
    if not node then
      return nil, problem
    elseif fields[name] then
      return nil, text.member(path, name) .. ": stands twice, with a question mark and without"
    end
    node.optional = node.optional or mark
    fields[name] = node
    texts[#texts + 1] = text.quote(name, MAX_FIELDS) .. (node.optional and "?:" or ":") .. node.text
    if not node.optional then
      names[#names + 1] = name
    end
    if #texts > MAX_FIELDS then
      return nil, path .. ": has more than " .. MAX_FIELDS .. " fields"
    end
  end
  table.sort(names)
  table.sort(texts)
  return { what = "table", text = "{" .. concat(texts, ",") .. "}", optional = false, fields = fields, names = names }
end

---@param definition any
---@param path string of the definition, for messages
---@param depth integer 1 for the outermost table
---@return gorge.SchemaNode|nil
---@return string|nil problem
function compile(definition, path, depth)
  if type(definition) == "string" then
    return compile_word(definition, path)
  elseif type(definition) ~= "table" then
    return nil, path .. ": must be " .. ACCEPTS .. ", got " .. text.describe(definition)
  elseif depth > MAX_DEPTH then
    return nil, path .. ": is nested more than " .. MAX_DEPTH .. " levels deep"
  elseif next(definition) == nil then
    return nil, path .. ': has no fields; "table" is any table'
  elseif definition[1] ~= nil then
    return compile_array(definition, path, depth)
  end
  return compile_fields(definition, path, depth)
end

local function expected(node, value)
  return "expected " .. node.what .. ", got " .. type(value)
end

local visit

-- A path is put together on the way back, and only when something is wrong: the parts come in from the inside out.

---@return string|nil problem
---@return string|nil path of the place inside `value`
local function visit_array(node, value, drop)
  local element, count, top = node.element, 0, 0
  for key, item in next, value do
    if type(key) ~= "number" or key < 1 or floor(key) ~= key then
      return "expected array, got a table with the key " .. text.describe(key), ""
    end
    local problem, path = visit(element, item, drop)
    if problem then
      return problem, "[" .. key .. "]" .. path
    end
    count = count + 1
    if key > top then
      top = key
    end
  end
  if top ~= count then
    return "expected array, got a table with gaps", ""
  end
end

---@param drop boolean true: what the schema does not know is taken away; false: it is a problem
local function visit_fields(node, value, drop)
  local fields, names = node.fields, node.names
  for i = 1, #names do
    local name = names[i]
    if rawget(value, name) == nil then
      return expected(fields[name], nil), text.member("", name)
    end
  end
  for key, item in next, value do
    local field = fields[key]
    if field then
      local problem, path = visit(field, item, drop)
      if problem then
        return problem, text.member("", key) .. path
      end
    elseif drop then
      value[key] = nil
    else
      return "not in the schema", text.member("", key)
    end
  end
end

function visit(node, value, drop)
  local test = node.test
  if test then
    if not test(value) then
      return expected(node, value), ""
    end
  elseif type(value) ~= "table" then
    return expected(node, value), ""
  elseif node.element then
    return visit_array(node, value, drop)
  else
    return visit_fields(node, value, drop)
  end
end

local function run(node, value, drop)
  local problem, path = visit(node, value, drop)
  if problem then
    if path == "" then
      path = "value"
    elseif sub(path, 1, 1) == "." then
      path = sub(path, 2)
    end
    return path .. ": " .. problem
  end
end

---A compiled schema.
---@class gorge.Schema
---@field root gorge.SchemaNode
---@field text string
local Schema = {}
Schema.__index = Schema

---Checks a value that is about to be stored. Never yields.
---@param value any not nil
---@return string|nil problem such as `roles[2]: expected string, got number`
function Schema:check(value)
  return run(self.root, value, false)
end

---Checks a value that comes from a program that may know another version of the schema: fields that this one does not know are taken away.
---@param value any fresh from a decoder; is changed
---@return string|nil problem
function Schema:fit(value)
  return run(self.root, value, true)
end

---@param definition table
---@return gorge.Schema|nil
---@return string|nil problem names the place in the definition
function _M.compile(definition)
  local root, problem = compile(definition, "schema", 1)
  if not root then
    return nil, problem
  end
  return setmetatable({ root = root, text = root.text }, Schema)
end

return _M
