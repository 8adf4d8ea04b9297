-- SPDX-License-Identifier: MIT
-- Numbers, bytes and tables for people.

local text = require "gorge.text"

local format = string.format

local _M = {}

---Foreign bytes for a terminal or a program; see unescape.
_M.escape = text.escape

---@param s string
---@return string|nil
function _M.unescape(s)
  local bad = s:gsub("\\x%x%x", ""):find("\\", 1, true)
  if bad then
    return nil
  end
  return (s:gsub("\\x(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

---1234567 → "1,234,567"
---@param n number
---@return string
function _M.count(n)
  local digits = format("%.0f", n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return digits
end

---@param n number bytes
---@return string
function _M.bytes(n)
  if n < 1024 then
    return format("%d B", n)
  end
  local value = n
  for _, unit in ipairs { "kB", "MB", "GB" } do
    value = value / 1024
    if value < 1024 or unit == "GB" then
      return format(value < 100 and "%.1f %s" or "%.0f %s", value, unit)
    end
  end
end

---@param seconds number
---@return string
function _M.time(seconds)
  if seconds < 1e-3 then
    return format("%.0f us", seconds * 1e6)
  elseif seconds < 1 then
    return format(seconds < 0.1 and "%.2f ms" or "%.0f ms", seconds * 1e3)
  elseif seconds < 120 then
    return format(seconds < 10 and "%.1f s" or "%.0f s", seconds)
  end
  return seconds < 7200 and format("%.0f min", seconds / 60) or format("%.0f h", seconds / 3600)
end

---@param share number 0 to 1
---@return string
function _M.percent(share)
  return format("%.1f %%", 100 * share)
end

---A rate for people.
---@param n number
---@return string
function _M.rate(n)
  return n < 10 and format("%.1f", n) or _M.count(n)
end

---Rows as columns. The last column is not padded; `right` names columns aligned to the right.
---@param rows string[][]
---@param right? table<integer, boolean>
---@param indent? string
---@return string
function _M.table(rows, right, indent)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, #cell)
    end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(widths[i] - #cell)
      cells[i] = right and right[i] and pad .. cell or i < #row and cell .. pad or cell
    end
    lines[#lines + 1] = ((indent or "") .. table.concat(cells, "  "):gsub(" +$", ""))
  end
  return table.concat(lines, "\n")
end

return _M
