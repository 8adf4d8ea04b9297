-- SPDX-License-Identifier: MIT
-- What a cache tells people: to the user's logger, or the host's log. The same text at most once a minute.

local REPEAT_MS = 60000
local MOST_TEXTS = 100

local _M = {}

---@class gorge.Report
---@field log fun(level: string, message: string, fields: table|nil)
---@field now fun(): number milliseconds
---@field last table<string, number> when a text was last written
---@field count integer texts in `last`

---@param log fun(level: string, message: string, fields: table|nil)
---@param now fun(): number milliseconds
---@return gorge.Report
function _M.new(log, now)
  return { log = log, now = now, last = {}, count = 0 }
end

---`fields` are for a logger of the user's: nginx's log gets none, for they may hold keys.
---@param report gorge.Report
---@param level "debug"|"info"|"warn"|"error"
---@param message string
---@param fields table|nil
---@param kind string|nil counts as the same text: for messages with a part that differs each time
function _M.write(report, level, message, fields, kind)
  kind = kind or message
  local now = report.now()
  local last = report.last[kind]
  if last and now - last < REPEAT_MS then
    return
  elseif not last then
    if report.count >= MOST_TEXTS then
      report.last, report.count = {}, 0
    end
    report.count = report.count + 1
  end
  report.last[kind] = now
  report.log(level, message, fields)
end

return _M
