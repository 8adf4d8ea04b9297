-- SPDX-License-Identifier: MIT
-- Reads the annotations of Lua files (the language of LuaLS: ---@param, ---@return, ---@class ...) and says what is wrong with them.

local _M = {}

local TAGS = { param = true, ["return"] = true, class = true, field = true, generic = true }
local CLOSING = { ["<"] = ">", ["("] = ")", ["{"] = "}", ["["] = "]" }

---@class gorge.docs.Item
---@field kind "function"|"class"|"other"
---@field name string as in the source, without a class's type parameters
---@field file string
---@field line integer
---@field doc string
---@field args string[]|nil of a function, as in the source
---@field is_method boolean|nil
---@field params { name: string, type: string, doc: string }[]
---@field returns { type: string, name: string, doc: string }[]
---@field fields { name: string, type: string, doc: string, optional: boolean, protected: boolean }[]
---@field generics table<string, true>

---The type that a text begins with, and what comes after it.
---@param text string
---@return string type "" when there is none
---@return string rest
function _M.take_type(text)
  local depth, quote, last = {}, nil, ""
  for i = 1, #text do
    local c = text:sub(i, i)
    if quote then
      quote = c ~= quote and quote or nil
    elseif c == '"' then
      quote = c
    elseif CLOSING[c] then
      depth[#depth + 1] = CLOSING[c]
    elseif #depth > 0 and c == depth[#depth] then
      depth[#depth] = nil
    elseif #depth == 0 and c:find "%s" and not last:find "[|,:]" then
      return text:sub(1, i - 1), (text:sub(i):match "^%s*(.-)%s*$")
    end
    last = c:find "%s" and last or c
  end
  return (text:match "^%s*(.-)%s*$"), ""
end

local HANDLERS = {}

function HANDLERS.param(item, rest)
  local name, after = rest:match "^([%w_.]+)%??%s+(.*)$"
  local kind, doc = _M.take_type(after or "")
  item.params[#item.params + 1] = { name = name or rest:match "^%S*", type = kind, doc = doc }
  return item.params[#item.params]
end

HANDLERS["return"] = function(item, rest)
  local kind, after = _M.take_type(rest)
  local name, doc = after:match "^([%l_][%w_]*)%s*(.*)$"
  if after:match "^%.%.%.%s" then
    name, doc = "...", after:sub(4)
  elseif not name or after:match "^[%l_][%w_]*%p" then
    name, doc = "", after
  end
  item.returns[#item.returns + 1] = { type = kind, name = name, doc = doc }
  return item.returns[#item.returns]
end

function HANDLERS.class(item, rest)
  local name, parameters, doc = rest:match "^([%w_.]+)(%b<>)%s*(.*)$"
  if not name then
    name, doc = rest:match "^([%w_.]+)%s*:?%s*(.*)$"
  end
  item.kind, item.name = "class", name or ""
  for parameter in (parameters or ""):gmatch "%u%w*" do
    item.generics[parameter] = true
    item.parameters = parameters
  end
  item.doc = item.doc .. (item.doc ~= "" and doc ~= "" and "\n\n" or "") .. doc
  return item
end

function HANDLERS.field(item, rest)
  local inner = rest:match "^protected%s+(.*)$"
  local name, mark, after = (inner or rest):match "^([%w_]+)(%??)%s+(.*)$"
  local kind, doc = _M.take_type(after or "")
  item.fields[#item.fields + 1] = {
    name = name or rest:match "^%S*", type = kind, doc = doc, optional = mark == "?", protected = inner ~= nil,
  }
  return item.fields[#item.fields]
end

function HANDLERS.generic(item, rest)
  for parameter in rest:gmatch "%u%w*" do
    item.generics[parameter] = true
  end
  return item
end

local function new_item(file, line)
  return { kind = "other", name = "", file = file, line = line, doc = "", params = {}, returns = {}, fields = {}, generics = {} }
end

---@param item gorge.docs.Item
---@param line string of code after the block
local function attach(item, line)
  local is_local, name, args = line:match "^(l?o?c?a?l?%s*)function%s+([%w_.:]+)%s*(%b())"
  if not name then
    return
  end
  item.kind = item.kind == "class" and "class" or is_local:match "local" and "other" or "function"
  item.name = item.kind == "class" and item.name or name
  item.is_method = name:find(":", 1, true) ~= nil
  item.args = {}
  for arg in args:gmatch "[%w_.]+" do
    item.args[#item.args + 1] = arg
  end
end

---Reads one file.
---@param text string
---@param file string its name, for messages
---@return gorge.docs.Item[] items
---@return string[] problems
function _M.parse(text, file)
  local items, problems = {}, {}
  local item, target, number = nil, nil, 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local comment = line:match "^%-%-%-(.*)$"
    if comment and not comment:match "^%-" then
      item = item or new_item(file, number)
      local tag, rest = comment:match "^@(%l+)%s*(.*)$"
      if tag and not TAGS[tag] then
        problems[#problems + 1] = ("%s:%d: unknown tag @%s"):format(file, number, tag)
      elseif tag then
        target = HANDLERS[tag](item, rest)
      elseif target and target ~= item then
        target.doc = target.doc .. " " .. comment
      else
        item.doc = item.doc .. (item.doc ~= "" and "\n" or "") .. comment
      end
    else
      if item then
        attach(item, line)
      elseif line:match "^function%s" then
        item = new_item(file, number)
        attach(item, line)
      end
      items[#items + 1] = item
      item, target = nil, nil
    end
  end
  return items, problems
end

---The names of classes in a type.
local function references(kind)
  local names = {}
  for name in kind:gsub('"[^"]*"', ""):gmatch "gorge%.[%w_.]+" do
    names[#names + 1] = name
  end
  return names
end

local function check_type(item, kind, what, classes, class, add)
  if kind == "" then
    return add(what .. " has no type")
  end
  for _, name in ipairs(references(kind)) do
    if not classes[name] then
      add(what .. ": there is no class " .. name)
    end
  end
  for parameter in kind:gsub('"[^"]*"', ""):gmatch "%f[%w_.]%u%f[^%w_.]" do
    if not item.generics[parameter] and not (class and class.generics[parameter]) then
      add(what .. ": the type parameter " .. parameter .. " is not declared")
    end
  end
end

local function check_function(item, classes, add)
  local expected = {}
  local first = item.params[1]
  if item.is_method and first and first.name == "self" then
    expected[1] = "self"
  end
  for _, arg in ipairs(item.args) do
    expected[#expected + 1] = arg
  end
  local given = {}
  for i, param in ipairs(item.params) do
    given[i] = param.name
    check_type(item, param.type, "parameter " .. param.name, classes, nil, add)
  end
  if table.concat(given, ", ") ~= table.concat(expected, ", ") then
    add(("has the parameters (%s), its annotations name (%s)"):format(table.concat(expected, ", "), table.concat(given, ", ")))
  end
  for i, result in ipairs(item.returns) do
    check_type(item, result.type, "result " .. i, classes, nil, add)
  end
end

---What is wrong with items that are part of the public interface.
---@param items gorge.docs.Item[]
---@param classes table<string, gorge.docs.Item> all there are
---@return string[] problems
function _M.check(items, classes)
  local problems = {}
  for _, item in ipairs(items) do
    local function add(what)
      problems[#problems + 1] = ("%s:%d: %s: %s"):format(item.file, item.line, item.name, what)
    end
    if not item.doc:match "%S" then
      add "has no description"
    end
    if item.kind == "function" then
      check_function(item, classes, add)
    end
    local seen = {}
    for _, field in ipairs(item.fields) do
      check_type(item, field.type, "field " .. field.name, classes, item, add)
      if seen[field.name] then
        add("field " .. field.name .. " stands twice")
      end
      seen[field.name] = true
    end
  end
  return problems
end

return _M
