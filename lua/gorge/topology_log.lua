-- SPDX-License-Identifier: MIT
-- Lines in the log about which server is asked: with sentinels when another one has become the master, told by that worker of a host which asks the
-- sentinels; in a cluster when partitions are found at other nodes, and when the circuit breaker of a node opens or closes.

local node_breakers = require "gorge.node_breakers"
local report = require "gorge.report"
local stats = require "gorge.stats"

local EVERY = 1 -- seconds between two looks of a worker of nginx, which may have nothing else to do

local _M = {}

local function write(cache, level, text, kind, ...)
  report.write(cache.report, level, ("gorge: namespace '%s': " .. text):format(cache.options.namespace, ...), nil, kind)
end

local function look_at_master(cache, watch)
  local switches = stats.count(cache.engine, "master_switches")
  if switches > watch.switches then
    watch.switches = switches
    write(cache, "warn", "the Redis master is %s now", nil, stats.master(stats.raw(cache)) or "not known")
  end
end

local function look_at_cluster(cache, watch)
  local changes = stats.count(cache.engine, "cluster_changes")
  if changes > watch.changes then
    write(cache, "warn", "%d of its partitions are at other nodes of the cluster now", "cluster changes", changes - watch.changes)
    watch.changes = changes
  end
  for _, change in ipairs(node_breakers.look(cache, watch.breakers)) do
    if change.open then
      write(cache, "warn", "the circuit breaker of the node %s is open", nil, change.node)
    else
      write(cache, "info", "the circuit breaker of the node %s is closed again", nil, change.node)
    end
  end
end

local function begin(cache)
  if cache.options.redis.cluster then
    return { look = look_at_cluster, changes = stats.count(cache.engine, "cluster_changes"), breakers = node_breakers.watch(cache) }
  end
  return { look = look_at_master, switches = stats.count(cache.engine, "master_switches") }
end

---@param cache gorge.Cache with sentinels, or of a cluster
function _M.attach(cache)
  local engine, watch = cache.engine, nil
  local enter = engine.enter
  local in_nginx = cache.host.name == "nginx"

  -- Counters are this process's own from here on.
  function engine.enter(self, threads)
    local ok, err = enter(self, threads)
    if self.entered and not watch then
      watch = begin(cache)
      if in_nginx then
        require("gorge.hosts.nginx_timer").every(EVERY, watch.look, cache, watch)
      else
        function self.after_poll()
          watch.look(cache, watch)
        end
      end
    end
    return ok, err
  end
end

return _M
