-- SPDX-License-Identifier: MIT
-- Rules for tables of options: checks of single values, and the walk over a table that names what is unknown or wrong.
--
-- A check takes a value and the full name of its option. It returns the value in normal form, or nil and what is wrong.

local text = require "gorge.text"

local ceil = math.ceil
local describe = text.describe
local floor = math.floor
local min = math.min
local next = next
local type = type

local _M = {}

local MAX_SUGGEST = 64 -- no suggestion for an option name longer than this: the search is quadratic

---Seconds to whole milliseconds, rounded up, at least 1. The small allowance keeps 2.007 s at 2007 ms (2.007 * 1000 is a hair above 2007).
---@param seconds number greater than 0
---@return integer
function _M.to_ms(seconds)
  local ms = ceil(seconds * 1000 - 1e-6)
  return ms < 1 and 1 or ms
end

---The text of a wrong value, the same for every option.
function _M.mismatch(name, accepts, value)
  return "option '" .. name .. "' must be " .. accepts .. ", got " .. describe(value)
end

function _M.is_seconds(value, max)
  return type(value) == "number" and value > 0 and value <= max -- false for NaN and inf
end

function _M.seconds(max)
  local accepts = "a number of seconds greater than 0 and at most " .. max
  return function(value, name)
    if _M.is_seconds(value, max) then
      return value
    end
    return nil, _M.mismatch(name, accepts, value)
  end
end

---The same, or 0.
function _M.seconds_or_none(max)
  local accepts = "a number of seconds from 0 to " .. max
  return function(value, name)
    if value == 0 or _M.is_seconds(value, max) then
      return value
    end
    return nil, _M.mismatch(name, accepts, value)
  end
end

function _M.boolean(value, name)
  if type(value) == "boolean" then
    return value
  end
  return nil, _M.mismatch(name, "a boolean", value)
end

---A number from 0 to 1.
function _M.share(value, name)
  if _M.is_share(value) then
    return value
  end
  return nil, _M.mismatch(name, "a number from 0 to 1", value)
end

function _M.is_share(value)
  return type(value) == "number" and value >= 0 and value <= 1 -- false for NaN
end

function _M.integer(least, most)
  local accepts = ("an integer from %d to %d"):format(least, most)
  return function(value, name)
    if type(value) == "number" and value >= least and value <= most and floor(value) == value then
      return value
    end
    return nil, _M.mismatch(name, accepts, value)
  end
end

local SIZE_UNITS = { [""] = 1, k = 1024, m = 1024 ^ 2, g = 1024 ^ 3 }

---A number of bytes, or a string with k, m or g.
function _M.size(least, most, accepts)
  return function(value, name)
    local bytes = value
    if type(value) == "string" then
      local digits, unit = value:lower():match "^(%d+)([kmg]?)$"
      bytes = digits and #digits <= 15 and tonumber(digits) * SIZE_UNITS[unit]
    end
    if type(bytes) == "number" and bytes >= least and bytes <= most and floor(bytes) == bytes then
      return bytes
    end
    return nil, _M.mismatch(name, accepts, value)
  end
end

---One of the words of `list`; a word of `later` is known but not supported by this version.
function _M.choice(list, later)
  local words, accepts = {}, '"' .. table.concat(list, '", "') .. '"'
  for _, word in ipairs(list) do
    words[word] = true
  end
  for _, word in ipairs(later) do
    words[word] = false
  end
  return function(value, name)
    if words[value] then
      return value
    elseif words[value] == false then
      return nil, "option '" .. name .. "': \"" .. value .. '" is not supported by this version, it takes one of ' .. accepts
    end
    return nil, _M.mismatch(name, "one of " .. accepts, value)
  end
end

function _M.func(value, name)
  if type(value) == "function" then
    return value
  end
  return nil, _M.mismatch(name, "a function", value)
end

---@return integer distance insertions, deletions and replacements that turn `a` into `b`
local function edit_distance(a, b)
  local row = {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], best
    end
  end
  return row[#b]
end

---@return string|nil name the option that other libraries call `key`
local function by_other_name(key, rules)
  for name, rule in next, rules do
    for _, other in ipairs(type(rule) == "table" and rule.known_as or {}) do
      if other == key then
        return name
      end
    end
  end
end

---@return string|nil name the closest option that at most 2 edits reach
local function by_spelling(key, rules)
  local closest, closest_distance
  for name in next, rules do
    local distance = edit_distance(key, name)
    if distance <= 2 and distance < #name and (not closest or distance < closest_distance
        or (distance == closest_distance and name < closest)) then
      closest, closest_distance = name, distance
    end
  end
  return closest
end

---@return string problem names the key; suggests the option that other libraries call so, or the closest one
function _M.unknown_option(key, prefix, rules)
  if type(key) ~= "string" then
    return "unknown option [" .. describe(key) .. "]" .. (prefix ~= "" and " in " .. prefix:sub(1, -2) or "")
  end
  local problem = "unknown option '" .. prefix .. text.printable(key) .. "'"
  local closest = by_other_name(key, rules) or (#key <= MAX_SUGGEST and by_spelling(key, rules))
  return closest and problem .. ", did you mean '" .. prefix .. closest .. "'?" or problem
end

---Checks one table of options.
---@param opts table
---@param prefix string "" or such as "redis."
---@param rules table<string, { check: function, default: any, ms: boolean?, known_as: string[]? }> known_as: names in other libraries, to be suggested only
---@return table|nil out a new table, nil when something is wrong
---@return string|nil problem
function _M.parse_table(opts, prefix, rules)
  for key in next, opts do
    if not rules[key] then
      return nil, _M.unknown_option(key, prefix, rules)
    end
  end
  local out = {}
  for name, rule in next, rules do
    local value = opts[name]
    if value == nil then
      value = rule.default
    else
      local problem
      value, problem = rule.check(value, prefix .. name)
      if problem then
        return nil, problem
      end
    end
    out[name] = value
    if rule.ms and value ~= nil then
      out[name .. "_ms"] = value == 0 and 0 or _M.to_ms(value)
    end
  end
  return out
end

---Whether an array goes on behind its end as `#` gives it: what stands there would be passed over in silence. { a, nil, b } may have the length 1.
---@param list table
---@return boolean
function _M.has_gap(list)
  local length = #list
  if length == 0 or next(list, length) == nil then
    return false
  end
  for key in next, list do
    if type(key) == "number" and key > length then
      return true
    end
  end
  return false
end

---@param list string[]
---@return table<string, true>
function _M.set(list)
  local out = {}
  for _, name in ipairs(list) do
    out[name] = true
  end
  return out
end

return _M
