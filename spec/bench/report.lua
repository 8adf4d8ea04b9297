-- SPDX-License-Identifier: MIT
--- The table that people read, and the file that programs read.
local cjson = require "cjson"
local figures = require "spec.bench.figures"

local _M = {}

local FORMAT = "%-40s %1s  %-22s %-32s %-6s %-9s %s"

local function rstrip(text)
  return (text:gsub(" +$", ""))
end

function _M.head()
  return rstrip(FORMAT:format("", "w", "gorge (min-max)", "beside it (min-max)", "ratio", "target", ""))
end

-- "met" with an asterisk: held against a figure that was read elsewhere.
local function mark(line)
  if line.met == nil then
    return ""
  end
  return (line.met and "met" or "NOT MET") .. (line.fixed and "*" or "")
end

local function beside(line)
  local against = line.against
  if not against then
    return "", ""
  elseif against.reference then
    local ratio = line.fixed and figures.digits(line.of.median / against.figure) or ""
    return against.name .. " " .. figures.quantity(against.figure, line.unit) .. " (reference)", ratio
  end
  return against.name .. " " .. figures.range(against, line.unit), line.ratio and figures.digits(line.ratio.median) or ""
end

---@param line gorge.bench.Comparison
---@param again boolean another comparison of the figure in the line above
---@return string
function _M.line(line, again)
  local name, workers, figure = line.name, line.workers, figures.range(line.of, line.unit)
  if again then
    name, workers, figure = "", "", ""
  end
  local peer, ratio = beside(line)
  return rstrip(FORMAT:format(name, workers, figure, peer, ratio, line.target or "", mark(line)))
end

--- Adds what was not compiled in a row, a line for each reason.
---@param result table of measure.row
---@param own string[] lines of gorge
---@param peers string[] lines of others
function _M.traces(result, own, peers)
  for side, traces in pairs(result.traces) do
    local lines = side:match "^gorge" and own or peers
    for text, count in pairs(traces) do
      lines[#lines + 1] = ("%s, %s: %s%s"):format(result.id, side, text, count > 1 and (" (%d times)"):format(count) or "")
    end
  end
  table.sort(own)
  table.sort(peers)
end

-- JSON -----------------------------------------------------------------------------------------------------------------

local function sorted_keys(value)
  local keys = {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

-- One line for what is short, keys in order: a file whose changes can be read.
local function write(value, indent)
  if type(value) == "number" then
    return ("%.6g"):format(value)
  elseif type(value) ~= "table" then
    return cjson.encode(value)
  end
  local parts, inner = {}, indent .. "  "
  if value[1] ~= nil then
    for i, item in ipairs(value) do
      parts[i] = write(item, inner)
    end
  else
    for i, key in ipairs(sorted_keys(value)) do
      parts[i] = cjson.encode(key) .. ": " .. write(value[key], inner)
    end
  end
  local open, close = "{", "}"
  if value[1] ~= nil then
    open, close = "[", "]"
  end
  local line = open .. table.concat(parts, ", ") .. close
  if #line + #indent <= 140 then
    return line
  end
  return open .. "\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. close
end

--- Writes the results; rows of the file that were not measured now stay as they are.
---@param path string
---@param results table[] of measure.row, in the order of the rows
---@param about table machine, versions, date, commit, runs, seconds: goes with each row
---@param order string[] ids of all rows
function _M.save(path, results, about, order)
  local by_id = {}
  local file = io.open(path)
  if file then
    for _, row in ipairs(cjson.decode(file:read "*a").rows) do
      by_id[row.id] = row
    end
    file:close()
  end
  for _, result in ipairs(results) do
    by_id[result.id] = result
    result.measured = about
  end
  local rows = {}
  for _, id in ipairs(order) do
    rows[#rows + 1] = by_id[id]
  end
  file = assert(io.open(path, "w"))
  assert(file:write(write({ rows = rows }, ""), "\n"))
  assert(file:close())
end

return _M
