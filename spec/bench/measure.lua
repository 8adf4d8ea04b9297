-- SPDX-License-Identifier: MIT
--- Measures one row: its sides in turn, A B A B, and compares them.
local figures = require "spec.bench.figures"
local rows = require "spec.bench.rows"
local session = require "spec.bench.session"

local _M = {}

local SOURCE_SHARE = 0.9 -- of the look-ups that the layer which a row is about must answer

-- A figure counts only when everything that was to be found was found.
local function check(row, side, results)
  for _, result in ipairs(results) do
    local function broken(what)
      error(("%s: %s: %s%s"):format(row.id, side.name, what, result.failure and ": " .. result.failure or ""), 0)
    end
    if result.good ~= result.ops then
      broken(("%d of %d calls went wrong"):format(result.ops - result.good, result.ops))
    elseif row.expect == "hits" and result.loads > 0 then
      broken(("%d of %d look-ups missed"):format(result.loads, result.ops))
    elseif row.expect == "misses" and result.loads ~= result.ops then
      broken(("%d of %d look-ups hit"):format(result.ops - result.loads, result.ops))
    end
  end
end

local function check_source(row, open)
  if not row.source then
    return
  end
  local sources, total = open:sources(), 0
  for _, count in pairs(sources) do
    total = total + count
  end
  if (sources[row.source] or 0) < SOURCE_SHARE * total then
    error(("%s: %d of %d look-ups were answered by %s"):format(row.id, sources[row.source] or 0, total, row.source), 0)
  end
end

---@class gorge.bench.Measured
---@field side gorge.bench.Side
---@field samples table<string, number[]> by metric
---@field traces table<string, integer> what was not compiled

-- Metrics that the row's lines speak of.
local function metrics_of(row)
  local names = { [row.metric] = true }
  for _, line in ipairs(row.lines) do
    names[line.metric or row.metric] = true
  end
  return names
end

local function note(row, measured, results)
  for name in pairs(metrics_of(row)) do
    local list = measured.samples[name] or {}
    measured.samples[name] = list
    list[#list + 1] = figures.metrics[name].of(results)
  end
end

local function note_traces(measured, results)
  for _, result in ipairs(results) do
    for text, count in pairs(result.traces) do
      measured.traces[text] = (measured.traces[text] or 0) + count
    end
  end
end

local function sides_of(row, modules)
  local sides = {}
  for i, side in ipairs(row.sides) do
    if not side.module or modules[side.module] then
      sides[#sides + 1] = { index = i, side = side, samples = {}, traces = {} }
    end
  end
  return sides
end

---@param row gorge.bench.Row
---@param settings table runs, seconds, warm_up, quick, modules
---@param sides gorge.bench.Measured[]
---@param servers { open: gorge.bench.Session|nil } what must be closed whatever happens
local function take_samples(row, settings, sides, servers)
  for run = row.fresh and 1 or 0, settings.runs do -- run 0 warms up
    if not servers.open then
      servers.open = session.new(row)
      servers.open:open(settings)
    end
    for _, measured in ipairs(sides) do
      local results = servers.open:sample(measured.index, run == 0 and settings.warm_up or settings.seconds)
      check(row, measured.side, results)
      note_traces(measured, results)
      if run > 0 then
        note(row, measured, results)
      end
    end
    if run == 0 then
      check_source(row, servers.open)
    end
    if row.fresh then
      servers.open:close()
      servers.open = nil
    end
  end
end

---@class gorge.bench.Comparison
---@field name string
---@field metric string
---@field unit string
---@field of { name: string, samples: number[], median: number, min: number, max: number }
---@field against table|nil the same; or `{ name, figure, reference = true }`
---@field ratio gorge.bench.Spread|nil
---@field target string|nil
---@field met boolean|nil nil: no target, or its peer was not there
---@field fixed boolean|nil

local function figure_of(measured, metric)
  local samples = measured.samples[metric]
  local spread = figures.spread(samples)
  return { name = measured.side.name, samples = samples, median = spread.median, min = spread.min, max = spread.max }
end

-- nil: there is nothing to hold the target against.
local function value_of(line, comparison)
  if line.absolute then
    return comparison.of.median
  elseif line.fixed then
    return comparison.of.median / line.reference.figure
  end
  return comparison.ratio and comparison.ratio.median
end

local function target_of(line, metric)
  local sign = metric.more and ">= " or "<= "
  if line.absolute then
    return sign .. figures.quantity(line.limit, metric.unit)
  end
  return sign .. figures.digits(line.limit)
end

---@param row gorge.bench.Row
---@param line gorge.bench.Line
---@param measured table<string, gorge.bench.Measured>
---@return gorge.bench.Comparison
local function compare(row, line, measured)
  local name = line.metric or row.metric
  local metric = figures.metrics[name]
  local comparison = {
    name = line.name or row.name, metric = name, unit = metric.unit, workers = row.workers, fixed = line.fixed,
    of = figure_of(measured[line.of or row.sides[1].name], name),
  }
  local peer = line.against
  if peer == nil then
    peer = row.sides[2].name
  end
  if peer and measured[peer] then
    comparison.against = figure_of(measured[peer], name)
    comparison.ratio = figures.ratio(comparison.of.samples, comparison.against.samples)
  elseif line.reference then
    comparison.against = { name = line.reference.name, figure = line.reference.figure, reference = true }
  end
  if line.limit then
    comparison.target = target_of(line, metric)
    local value = value_of(line, comparison)
    if value and metric.more then
      comparison.met = value >= line.limit
    elseif value then
      comparison.met = value <= line.limit
    end
  end
  return comparison
end

---@param row gorge.bench.Row
---@param settings table
---@return { id: string, lines: gorge.bench.Comparison[], traces: table<string, table<string, integer>> }|nil
---@return string|nil err what broke
function _M.row(row, settings)
  local sides, servers = sides_of(row, settings.modules), {}
  local ok, err = xpcall(take_samples, function(e) return e:match "^[%w-]+: " and e or debug.traceback(e) end, row, settings, sides, servers)
  if servers.open then
    servers.open:close()
  end
  if not ok then
    return nil, err
  end
  local measured = {}
  for _, side in ipairs(sides) do
    measured[side.side.name] = side
  end
  local result = { id = row.id, name = row.name, workers = row.workers, lines = {}, traces = {} }
  for i, line in ipairs(row.lines) do
    result.lines[i] = compare(row, line, measured)
  end
  for name, side in pairs(measured) do
    result.traces[name] = side.traces
  end
  return result
end

--- Rows by their ids.
---@param words string|nil ids, with * for any characters, separated by blanks or commas; nil: all
---@return gorge.bench.Row[]
---@return string|nil unknown a word that names no row
function _M.pick(words)
  local wanted, picked, unknown = {}, {}, nil
  for word in (words or "*"):gmatch "[^%s,]+" do
    local pattern, found = "^" .. word:gsub("%W", "%%%0"):gsub("%%%*", ".*") .. "$", false
    for _, row in ipairs(rows.list) do
      if row.id:match(pattern) then
        wanted[row.id], found = true, true
      end
    end
    unknown = unknown or not found and word or nil
  end
  for _, row in ipairs(rows.list) do
    if wanted[row.id] then
      picked[#picked + 1] = row
    end
  end
  return picked, unknown
end

return _M
