-- SPDX-License-Identifier: MIT
-- Bytes for people: quoting of foreign bytes in messages, and the UTF-8 check. Depends on nothing.

local byte = string.byte
local find = string.find
local format = string.format
local gsub = string.gsub
local sub = string.sub

local _M = {}

local ESCAPES = {}
for code = 0, 255 do
  ESCAPES[string.char(code)] = format("\\x%02x", code)
end

---Makes bytes fit for a message or a log line: everything but printable ASCII becomes `\xNN`, and no more than `max` bytes of
---the text are shown ("..." marks a cut). Never yields; any phase.
---@param s string
---@param max? integer bytes of `s` shown at most, default 64
---@return string
function _M.printable(s, max)
  max = max or 64
  local shown = gsub(sub(s, 1, max), "[^\32-\126]", ESCAPES)
  if #s > max then
    return shown .. "..."
  end
  return shown
end

---Bytes so that they can be had back: printable ASCII as it is, all else, and the backslash, as `\xNN`. "..." marks a cut.
---@param s string
---@param max? integer bytes of `s` shown at most
---@return string
function _M.escape(s, max)
  local shown = gsub(sub(s, 1, max or #s), "[%c\\\127-\255]", ESCAPES)
  return max and #s > max and shown .. "..." or shown
end

---The same between double quotes; a quote or a backslash of the text itself is escaped.
---@param s string
---@param max? integer bytes of `s` shown at most, default 64
---@return string
function _M.quote(s, max)
  max = max or 64
  local shown = gsub(gsub(sub(s, 1, max), '["\\]', "\\%0"), "[^\32-\126]", ESCAPES)
  return '"' .. shown .. (#s > max and '..."' or '"')
end

---Names a value of any type in a message: text is quoted, numbers and booleans are shown, all else is named by its type.
---@param value any
---@return string
function _M.describe(value)
  local kind = type(value)
  if kind == "string" then
    return _M.quote(value, 40)
  elseif kind == "number" then
    return value ~= value and "nan" or format("%.14g", value)
  elseif kind == "boolean" or kind == "nil" then
    return tostring(value)
  end
  return "a " .. kind
end

---The path of a member of a table: `a.b`, `a["x y"]`, `a[3]`.
---@param path string of the table; "" begins with the dot
---@param key any
---@return string
function _M.member(path, key)
  if type(key) == "string" and #key <= 64 and find(key, "^[%a_][%w_]*$") then
    return path .. "." .. key
  end
  return path .. "[" .. _M.describe(key) .. "]"
end

local function is_continuation(b)
  return b ~= nil and b >= 0x80 and b <= 0xBF
end

---Whether `s` is well-formed UTF-8 (no overlong form, no surrogate, nothing above U+10FFFF). Never yields; any phase.
---@param s string
---@return boolean
function _M.is_utf8(s)
  local i = find(s, "[\128-\255]")
  if not i then
    return true
  end
  local len = #s
  while i <= len do
    local b = byte(s, i)
    if b < 0x80 then
      i = i + 1
    elseif b < 0xC2 or b > 0xF4 then
      return false
    elseif b < 0xE0 then
      if not is_continuation(byte(s, i + 1)) then
        return false
      end
      i = i + 2
    else
      local b2, b3, b4 = byte(s, i + 1, i + 3)
      if not is_continuation(b2) or not is_continuation(b3) then
        return false
      end
      -- The second byte rules out overlong forms (E0, F0), surrogates (ED) and what lies above U+10FFFF (F4).
      if (b == 0xE0 and b2 < 0xA0) or (b == 0xED and b2 > 0x9F) or (b == 0xF0 and b2 < 0x90) or (b == 0xF4 and b2 > 0x8F) then
        return false
      end
      if b < 0xF0 then
        i = i + 3
      elseif is_continuation(b4) then
        i = i + 4
      else
        return false
      end
    end
  end
  return true
end

return _M
