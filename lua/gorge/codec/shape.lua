-- SPDX-License-Identifier: MIT
-- What a Lua value is made of: refuses what cannot be stored, and says whether a plain JSON writer would keep it exactly.
--
-- Metatables are ignored: the fields of a table are read raw, and what comes back from the cache has no metatable.
-- A table that is reachable in two ways is stored twice and comes back as two tables; a table inside itself is refused.

local text = require "gorge.text"

local floor = math.floor
local format = string.format
local getmetatable = getmetatable
local is_utf8 = text.is_utf8
local next = next
local rawequal = rawequal
local tonumber = tonumber
local type = type

local _M = {}

---Tables inside tables, the outermost counted as 1.
local MAX_DEPTH = 32
---Keys and values of one stored value, counted with repetition: a few tables that share their children can stand for 2^32 of them.
local MAX_NODES = 4194304
---The key that marks an escape in extended JSON, see codec/json.lua.
local MARK = "\0gorge"

_M.MAX_DEPTH = MAX_DEPTH
_M.MAX_NODES = MAX_NODES
_M.MARK = MARK

---Shapes of a table as JSON sees it.
_M.OBJECT = 1 -- all keys are strings, or there are none
_M.ARRAY = 2 -- keys 1 to n without a gap, n > 0
_M.OTHER = 3 -- anything else

local OBJECT, ARRAY, OTHER = _M.OBJECT, _M.ARRAY, _M.OTHER

---Modes of `inspect`.
_M.TYPES = 1 -- only refuse what no form can store
_M.EXTENDED = 2 -- and tell whether plain JSON is exact
_M.STRICT = 3 -- and refuse what plain JSON cannot express

local TYPES, EXTENDED, STRICT = _M.TYPES, _M.EXTENDED, _M.STRICT

---@param t table
---@param strict boolean true: every string is a good key; false: a key must be UTF-8 and not the mark
---@return integer shape
---@return integer count number of keys
local function shape_of(t, strict)
  local count, strings, whole, top = 0, 0, 0, 0
  for key in next, t do
    local kind = type(key)
    count = count + 1
    if kind == "string" then
      if strict or (key ~= MARK and is_utf8(key)) then
        strings = strings + 1
      end
    elseif kind == "number" and key >= 1 and floor(key) == key then
      whole = whole + 1
      if key > top then
        top = key
      end
    end
  end
  if strings == count then
    return OBJECT, count
  elseif whole == count and top == count then -- as many whole keys as the largest one says: no gap
    return ARRAY, count
  end
  return OTHER, count
end
_M.of = shape_of

---Whether `%.14g`, which is what the JSON library writes, keeps a finite number exactly.
local function is_short(n)
  if floor(n) == n and n > -1e14 and n < 1e14 then
    return true
  end
  return tonumber(format("%.14g", n)) == n
end

-- The way from the outermost table to the one at hand. Kept outside the recursion so that a good value costs no object;
-- nothing in here yields, so one set is enough.
local tables, keys, nodes = {}, {}, 0
for depth = 1, MAX_DEPTH + 1 do
  tables[depth], keys[depth] = false, false
end

local function path_to(depth)
  local path = "value"
  for i = 1, depth do
    path = text.member(path, keys[i])
  end
  return path
end

local function cannot(depth, what)
  return nil, path_to(depth) .. ": cannot serialize " .. what
end

local inspect_table

---@param value any not a table
---@param depth integer number of keys on the way to it
---@param mode integer
---@param null any the JSON null
---@return boolean|nil plain
---@return string|nil err
local function inspect_scalar(value, depth, mode, null)
  local kind = type(value)
  if kind == "number" then
    if mode == TYPES then
      return true
    elseif value ~= value or value - value ~= 0 then
      if mode == STRICT then
        return nil, path_to(depth) .. ": JSON cannot express the number " .. (value ~= value and "nan" or value > 0 and "inf" or "-inf")
      end
      return false
    end
    return is_short(value)
  elseif kind == "string" then
    return mode ~= EXTENDED or is_utf8(value)
  elseif kind == "boolean" then
    return true
  elseif kind == "userdata" and rawequal(value, null) then
    return true
  end
  return cannot(depth, "a " .. kind)
end

---@param t table
---@param depth integer 1 for the outermost table
---@param mode integer
---@param null any
---@return boolean|nil plain
---@return string|nil err
function inspect_table(t, depth, mode, null)
  if depth > MAX_DEPTH then
    return cannot(depth - 1, "tables nested more than " .. MAX_DEPTH .. " levels deep")
  end
  for i = 1, depth - 1 do
    if rawequal(tables[i], t) then
      return cannot(depth - 1, "a cycle (the table is the same as " .. path_to(i - 1) .. ")")
    end
  end
  tables[depth] = t
  local shape, count = shape_of(t, mode ~= EXTENDED)
  nodes = nodes + 1 + count
  if nodes > MAX_NODES then
    return cannot(depth - 1, "a value of more than " .. MAX_NODES .. " parts")
  end
  if shape == OTHER and mode == STRICT then
    return nil, path_to(depth - 1) .. ": JSON cannot express a table whose keys are neither all strings nor 1 to n without a gap"
  end
  -- Some builds of cjson look at a metatable and then write only a part of the table.
  local plain = shape ~= OTHER and getmetatable(t) == nil
  for key, value in next, t do
    keys[depth] = key
    if shape == OTHER then
      local kind = type(key)
      if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
        keys[depth] = false
        return cannot(depth - 1, "a table key that is a " .. kind)
      end
    end
    local good, err
    if type(value) == "table" then
      good, err = inspect_table(value, depth + 1, mode, null)
    else
      good, err = inspect_scalar(value, depth, mode, null)
    end
    if good == nil then
      return nil, err
    end
    plain = plain and good
  end
  tables[depth], keys[depth] = false, false
  return plain
end

---Checks a value, all the way down.
---@param value any not nil
---@param mode integer TYPES, EXTENDED or STRICT
---@param null any the light userdata that stands for the JSON null
---@return boolean|nil plain with EXTENDED and STRICT: whether the JSON library writes it exactly; nil when it cannot be stored
---@return string|nil err names the path inside the value and the type, such as `value.roles[3]: cannot serialize a function`
function _M.inspect(value, mode, null)
  if type(value) ~= "table" then
    return inspect_scalar(value, 0, mode, null)
  end
  nodes = 0
  local plain, err = inspect_table(value, 1, mode, null)
  if plain == nil then
    for depth = 1, MAX_DEPTH + 1 do
      tables[depth], keys[depth] = false, false
    end
  end
  return plain, err
end

return _M
