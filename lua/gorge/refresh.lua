-- SPDX-License-Identifier: MIT
-- Refreshes of values that are still good: which reader begins one, and where it runs. That one of all readers of the host and of all nodes does it is
-- the core's business (core/engine/refresh.c).

local C = require "gorge.ffi.lib"
local flights = require "gorge.flights"
local report = require "gorge.report"
local text = require "gorge.text"

local log = math.log
local running = coroutine.running
local type = type

local _M = {}

---Whether this reader is to see to the refresh of a value that L1 has just called due: by its stale_ttl, or by XFetch (A. Vattani, F. Chierichetti,
---K. Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015): the sooner its end, and the longer its loader took, the likelier.
---@param self gorge.Cache
---@return boolean
function _M.wanted(self)
  local options = self.options
  local life = self.engine.read.life
  local now_ms = self.host.now()
  if options.stale_while_revalidate and life.refresh_ms > 0 and now_ms >= life.refresh_ms then
    return true
  end
  local beta = options.early_refresh
  return beta and now_ms - life.load_ms * beta * log(1 - C.gorge_random_unit()) >= life.whole_ms
end

local function tell(self, message, why, key)
  why = type(why) == "string" and why or text.describe(why)
  report.write(self.report, "warn", message .. ": " .. text.printable(why, 200), key and { key = key }, message)
end

---A refresh of some keys.
---@class gorge.Refresh: gorge.Job
---@field cache gorge.Cache
---@field keys string[]
---@field call gorge.Call
---@field fill fun(refresh: gorge.Refresh): any err runs the loader and stores what it returns
---@field co thread|nil that it runs in
local Refresh = {}
Refresh.__index = Refresh

local function forget(self)
  local refreshing = self.cache.refreshing
  for i = 1, #self.keys do
    refreshing[self.keys[i]] = nil
  end
end

function Refresh:run()
  self.co = running()
  local err = self:fill()
  forget(self)
  if err ~= nil and not self.over then
    tell(self.cache, "gorge: a refresh failed", err, self.keys[1])
  end
end

---It has not begun, and will not.
function Refresh:drop()
  forget(self)
end

---Its time is over. What its loader returns later is not stored.
function Refresh:give_up()
  self.over = true
  for i = 1, #self.keys do
    local flight = self.cache.flights[self.keys[i]]
    if flight and flight.co == self.co then
      flight:give_up()
    end
  end
  forget(self)
  tell(self.cache, "gorge: a refresh failed", "it took longer than refresh_timeout", self.keys[1])
end

function Refresh:cut_off()
  flights.cut_off(self)
end

---Begins a refresh in the background, unless this worker has begun one; in a program without a background, runs it.
---@param self gorge.Cache
---@param keys string[]
---@param call gorge.Call nobody else uses it any more
---@param fill fun(refresh: gorge.Refresh): any
---@return gorge.Refresh|nil done it was run, and is over
function _M.begin(self, keys, call, fill)
  local refreshing, due = self.refreshing, {}
  for i = 1, #keys do
    if not refreshing[keys[i]] then
      due[#due + 1] = keys[i]
      refreshing[keys[i]] = true
    end
  end
  if #due == 0 then
    return
  end
  local job = setmetatable({
    cache = self, keys = due, call = call, fill = fill, limit_ms = self.options.refresh_timeout_ms,
  }, Refresh)
  local started, why = self.host.background(self.engine, job)
  if why then
    tell(self, "gorge: values are not refreshed", why)
    if not started then
      forget(job)
    end
    return
  elseif started then
    return
  end
  job:run()
  return job
end

return _M
