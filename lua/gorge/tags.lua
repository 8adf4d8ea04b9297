-- SPDX-License-Identifier: MIT
-- Tags as users write them, and packed as the core takes them: each one length byte and its bytes.

local check = require "gorge.check"

local char = string.char
local concat = table.concat
local type = type

local MAX_TAGS = 16
local MAX_BYTES = 255

local _M = { MAX_TAGS = MAX_TAGS, MAX_BYTES = MAX_BYTES }

local function pack_one(tag)
  if type(tag) ~= "string" then
    return nil, "a tag must be a string, got a " .. type(tag)
  elseif tag == "" or #tag > MAX_BYTES then
    return nil, "a tag must have 1 to " .. MAX_BYTES .. " bytes, got " .. #tag
  end
  return char(#tag) .. tag
end

---@param tags string|string[]|nil at most 16; a tag that stands twice counts once
---@return string|nil packed
---@return string? problem
function _M.pack(tags)
  if tags == nil then
    return ""
  elseif type(tags) == "string" then
    return pack_one(tags)
  elseif type(tags) ~= "table" then
    return nil, "tags must be a string or an array of strings, got a " .. type(tags)
  end
  local seen, parts, n = {}, {}, 0
  for i = 1, #tags do
    local packed, problem = pack_one(tags[i])
    if not packed then
      return nil, problem
    end
    if not seen[packed] then
      seen[packed] = true
      n = n + 1
      parts[n] = packed
    end
  end
  if n == 0 and next(tags) ~= nil then
    return nil, "tags must be a string or an array of strings, got a table with other keys"
  elseif check.has_gap(tags) then
    return nil, "tags must be an array without gaps, got nil in between"
  elseif n > MAX_TAGS then
    return nil, "at most " .. MAX_TAGS .. " tags a value, got " .. n
  end
  return concat(parts, "", 1, n)
end

return _M
