-- SPDX-License-Identifier: MIT
-- Timers of nginx that run at once, and are known to have been lost: nginx drops those beyond lua_max_running_timers when their time has come, and tells
-- only its log.

local C = require "gorge.ffi.lib"

local pcall = pcall

local START_MS = 1000 -- a timer that has not begun by then never will

local _M = {}

---What a timer is asked for through; its owner may keep more in it.
---@class gorge.TimerPlace
---@field asked_ms number|nil when; nil: none is waited for
---@field turn integer|nil counts them

local function begin(premature, place, turn, run, ...)
  if place.turn ~= turn then
    return -- it is late, and another one has been asked for
  end
  place.asked_ms = nil
  run(premature, ...)
end

---Has run(premature, ...) called by a timer.
---@param place gorge.TimerPlace
---@param run function
---@return boolean asked
---@return string|nil err
function _M.ask(place, run, ...)
  local turn = (place.turn or 0) + 1
  place.turn, place.asked_ms = turn, C.gorge_now_ms()
  local called, made, err = pcall(ngx.timer.at, 0, begin, place, turn, run, ...) -- raises in a worker that is about to end
  if called and made then
    return true
  end
  place.asked_ms = nil
  return false, "no timer: " .. tostring(called and err or made)
end

---Whether the timer that was asked for has not begun, and will not.
---@param place gorge.TimerPlace
---@return boolean
function _M.lost(place)
  local asked_ms = place.asked_ms
  return asked_ms ~= nil and C.gorge_now_ms() - asked_ms > START_MS
end

local function tick(premature, place)
  local cache = place.cache
  if premature or not cache or place.busy then
    return
  elseif not cache.engine then -- closed: the timer goes on for as long as the worker, and keeps nothing
    place.cache, place.watch = nil, nil
    return
  end
  place.busy = true
  local ok, err = pcall(place.look, cache, place.watch)
  place.busy = false
  if not ok then
    error(err, 0)
  end
end

---Has look(cache, watch) called every so many seconds while the cache is open, but for the times that nginx has no timer.
---@param seconds number
---@param look fun(cache: gorge.Cache, watch: table) may yield
function _M.every(seconds, look, cache, watch)
  pcall(ngx.timer.every, seconds, tick, { look = look, cache = cache, watch = watch })
end

_M.LOST = "no timer: lua_max_running_timers are not enough"

return _M
