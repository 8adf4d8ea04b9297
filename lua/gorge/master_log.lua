-- SPDX-License-Identifier: MIT
-- With sentinels: a line in the log when another server has become the master. Of all workers of a host the one that asks the sentinels writes it.

local report = require "gorge.report"
local stats = require "gorge.stats"

local pcall = pcall
local tonumber = tonumber

local EVERY = 1 -- seconds between two looks of a worker of nginx, which may have nothing else to do

local _M = {}

local PLACE
for i, counter in ipairs(stats.COUNTERS) do
  if counter[1] == "master_switches" then
    PLACE = i - 1
  end
end

local function look(cache, watch)
  local switches = tonumber(cache.engine.counters[PLACE])
  if switches > watch.switches then
    watch.switches = switches
    report.write(cache.report, "warn", ("gorge: namespace '%s': the Redis master is %s now"):format(cache.options.namespace,
      stats.master(stats.raw(cache)) or "not known"))
  end
end

local function run_timer(premature, cache, watch)
  if not premature and cache.engine then
    look(cache, watch)
    pcall(ngx.timer.at, EVERY, run_timer, cache, watch)
  end
end

---@param cache gorge.Cache with sentinels
function _M.attach(cache)
  local engine, watch = cache.engine, {}
  local enter = engine.enter
  local in_nginx = cache.host.name == "nginx"

  -- Counters are this process's own from here on.
  function engine.enter(self, threads)
    local ok, err = enter(self, threads)
    if self.entered and not watch.switches then
      watch.switches = tonumber(self.counters[PLACE])
      if in_nginx then
        pcall(ngx.timer.at, EVERY, run_timer, cache, watch)
      else
        function self.after_poll()
          look(cache, watch)
        end
      end
    end
    return ok, err
  end
end

return _M
