-- SPDX-License-Identifier: MIT
-- Tells the log why Redis is being done without, and when it answers again. Looked at after calls that needed Redis, never on a hit in L0 or L1.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local report = require "gorge.report"
local text = require "gorge.text"

local tonumber = tonumber

local L2_ERRORS = tonumber(C.GORGE_COUNT_L2_ERRORS)
local SIZE = 128

local _M = {}

local buffer = ffi.new("char[?]", SIZE)

---@param cache gorge.Cache
function _M.look(cache)
  local engine = cache.engine
  if not engine or not engine.has_redis then
    return
  end
  local errors = tonumber(engine.counters[L2_ERRORS])
  if errors ~= cache.redis_errors then
    cache.redis_errors = errors
    if C.gorge_redis_trouble(engine.handle, buffer, SIZE) == 1 then
      cache.redis_trouble = true
      local why = text.printable(ffi.string(buffer), SIZE)
      report.write(cache.report, "warn", "gorge: Redis is done without, reads go on from L1 and from loaders: " .. why)
    end
  elseif cache.redis_trouble and C.gorge_redis_trouble(engine.handle, buffer, SIZE) == 0 then
    cache.redis_trouble = false
    report.write(cache.report, "info", "gorge: Redis answers again")
  end
end

return _M
