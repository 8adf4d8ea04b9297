-- SPDX-License-Identifier: MIT
--- Violations as text: what is wrong, and the few operations that show it, in the order in which they began.
local record = require "spec.history.record"

local _M = {}

local MARGIN = 0.3
local MANY = 8

---@return table[] faults at about the time of these operations
function _M.faults_near(history, ops)
  local from, to = math.huge, 0
  for _, op in ipairs(ops) do
    from = math.min(from, op.start)
    to = math.max(to, op.finish, op.start)
  end
  local near = {}
  for _, fault in ipairs(history.faults or {}) do
    if fault.from < to + MARGIN and (fault.to or math.huge) > from - MARGIN then
      near[#near + 1] = fault
    end
  end
  return near
end

---@param op table
---@param zero number
---@return string
function _M.line(op, zero)
  local what = op.kind == record.KIND_TAGS and "tag " or op.kind == record.KIND_CLEAR and "" or "key "
  local took = op.finish > 0 and ("%+.6f"):format(op.finish - op.start) or "no end"
  local parts = {
    ("%12.6f %s"):format(op.start - zero, took),
    ("host %d pid %d"):format(op.host, op.pid),
    record.KINDS[op.kind] .. (what ~= "" and " " .. what .. op.key or ""),
    op.before ~= 0 and op.kind == record.KIND_UPDATE and ("from %.0f"):format(op.before) or nil,
  }
  if op.value ~= 0 then
    parts[#parts + 1] = ("value %.0f"):format(op.value)
  end
  parts[#parts + 1] = record.RESULTS[op.result] .. (op.source ~= 0 and " from " .. record.SOURCES[op.source] or "")
  if op.clock ~= 0 then
    parts[#parts + 1] = ("clock %.6f"):format(op.clock - zero)
  end
  return table.concat(parts, "  ")
end

--- A violation as lines of text; times count from `zero`.
---@param violation table
---@param zero number
---@return string
function _M.text(violation, zero)
  local lines, ops = { violation.rule .. ": " .. violation.text }, {}
  for i, op in ipairs(violation.ops) do
    ops[i] = op
  end
  table.sort(ops, function(a, b) return a.start < b.start end)
  for i, op in ipairs(ops) do
    if i <= MANY or i > #ops - MANY then
      lines[#lines + 1] = "  " .. _M.line(op, zero)
    elseif i == MANY + 1 then
      lines[#lines + 1] = ("  ... %d more"):format(#ops - 2 * MANY)
    end
  end
  for _, fault in ipairs(violation.faults) do
    lines[#lines + 1] = ("  %12.6f %+.6f  fault: %s"):format(fault.from - zero, (fault.to or fault.from) - fault.from, fault.what)
  end
  return table.concat(lines, "\n")
end

--- All violations of a history, by rule the first few.
---@param violations table[]
---@param zero number
---@param most? integer of each rule (3)
---@return string
function _M.all(violations, zero, most)
  local count, lines = {}, {}
  for _, violation in ipairs(violations) do
    local n = (count[violation.rule] or 0) + 1
    count[violation.rule] = n
    if n <= (most or 3) then
      lines[#lines + 1] = _M.text(violation, zero)
    end
  end
  for rule, n in pairs(count) do
    lines[#lines + 1] = ("%s: %d in all"):format(rule, n)
  end
  return table.concat(lines, "\n")
end

return _M
