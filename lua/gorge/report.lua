-- SPDX-License-Identifier: MIT
-- What a cache tells people: to the user's logger, or the host's log. The same text at most once a minute.
--
-- A logger that raises, such as one that reads ngx.var where there is no request, harms no call: its texts go to the host's log.

local text = require "gorge.text"

local pcall = pcall
local type = type

local REPEAT_MS = 60000
local MOST_TEXTS = 100

local _M = {}

---@class gorge.Report
---@field logger nil|fun(level: string, message: string, fields: table|nil) the user's
---@field log fun(level: string, message: string) the host's
---@field now fun(): number milliseconds
---@field last table<string, number> when a text was last written
---@field count integer texts in `last`

---@param logger nil|fun(level: string, message: string, fields: table|nil)
---@param host gorge.Host
---@return gorge.Report
function _M.new(logger, host)
  return { logger = logger, log = host.log, now = host.now, last = {}, count = 0 }
end

---@return boolean told
local function tell_user(report, level, message, fields)
  if not report.logger then
    return false
  end
  local ok, err = pcall(report.logger, level, message, fields)
  if not ok then
    local why = type(err) == "string" and text.printable(err, 200) or text.describe(err)
    report.log("error", "gorge: the logger raised: " .. why)
  end
  return ok
end

---`fields` are for a logger of the user's: the host's log gets none, for they may hold keys.
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
  if not tell_user(report, level, message, fields) then
    report.log(level, message)
  end
end

return _M
