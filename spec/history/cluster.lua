-- SPDX-License-Identifier: MIT
--- Several nodes under load, each behind a relay of its own, and the Redis that they share.
local cjson = require "cjson"
local helper = require "spec.helper"
local record = require "spec.history.record"
local node = require "spec.nginx.node"

local _M = {}

---@class gorge.history.Cluster
---@field redis gorge.spec.Redis
---@field servers gorge.spec.Cluster instead of redis and relays, with `redis_cluster`
---@field relays gorge.spec.Relay[]
---@field nodes gorge.spec.Nginx[]
local Cluster = {}
Cluster.__index = Cluster

local WORKERS = 2

-- What Redis has acknowledged is there again after a SIGKILL.
local KEPT = "appendonly yes\nappendfsync no"

local HTTP = [[
  lua_socket_log_errors off;
  init_by_lua_block { cache = assert(require("gorge").new({{options}})) }
  init_worker_by_lua_block { require("spec.history.worker").start(cache, {{load}}) }
]]

local SERVER = [[
  location = /change {
    content_by_lua_block { require("spec.history.worker").change(ngx.var.arg_how, tonumber(ngx.var.arg_key)) }
  }
  location = /stats {
    content_by_lua_block {
      local stats = cache:stats()
      stats.pid = ngx.worker.pid()
      ngx.print(require("cjson").encode(stats))
    }
  }
]]

--- How a host asks Redis.
local function redis_options(self, host)
  if self.servers then
    return { cluster = self.servers:addresses(3) }
  end
  self.relays[host] = helper.relay(self.redis)
  return { host = "127.0.0.1", port = self.relays[host].port }
end

--- Options: nodes, options (for gorge.new), load (for worker.start), library (instead of the built one), replica: a second Redis that follows the first;
--- redis_cluster: six nodes instead, without relays.
---@param opts table
---@return gorge.history.Cluster
function _M.start(opts)
  local self = setmetatable({ dir = helper.temp_dir(), nodes = {}, relays = {}, killed = {}, losses = {}, started = record.now() }, Cluster)
  if opts.redis_cluster then
    self.servers = helper.cluster { config = KEPT }
  else
    self.redis = helper.redis { config = KEPT }
  end
  self.shared = record.shared(self.dir)
  for host = 1, opts.nodes do
    local load = { dir = self.dir, host = host, zero = self.started }
    for name, value in pairs(opts.load) do
      load[name] = value
    end
    local options = { namespace = "history", redis = redis_options(self, host) }
    options.redis.timeout, options.redis.connect_timeout = 0.2, 0.3
    for name, value in pairs(opts.options) do
      options[name] = value
    end
    self.nodes[host] = helper.nginx {
      workers = WORKERS, http = HTTP, server = SERVER, log_level = "warn",
      values = { options = node.literal(options), load = node.literal(load) },
      lua_path = helper.paths.lua_path .. ";" .. helper.paths.root .. "/?.lua",
      env = { GORGE_LIBRARY = opts.library },
    }
  end
  if opts.replica then
    self.replica = helper.redis { config = KEPT }
    self:replicate()
  end
  return self
end

--- Lets the replica follow Redis, through a relay of its own.
function Cluster:replicate()
  if not self.replica.process:alive() then
    self.replica:up()
  end
  if self.replication then
    self.replication:stop()
  end
  self.replication = helper.relay(self.redis)
  self.replica:command("REPLICAOF", "127.0.0.1", self.replication.port)
  local function info(section, text)
    return (self.replica:command("INFO", section) or ""):find(text, 1, true)
  end
  helper.wait_until(function()
    return info("replication", "master_link_status:up") and info("persistence", "aof_rewrite_in_progress:0")
      and info("persistence", "aof_rewrite_scheduled:0")
  end, { timeout = 20, message = "the replica does not follow" })
end

---@return table|nil
function Cluster:stats(host)
  local response = self.nodes[host]:request { uri = "/stats", timeout = 2 }
  return response.status == 200 and cjson.decode(response.body) or nil
end

--- One change, made and recorded by a worker of a host: see worker.change.
---@param host integer
---@param how string
---@param key? integer
function Cluster:change(host, how, key)
  local response = self.nodes[host]:get(("/change?how=%s&key=%d"):format(how, key or 0))
  assert(response.status == 200, response.err or response.body)
end

--- Looks at a host once more. True once each of its workers is connected to Redis, and the host hears it and has nothing left to tell it.
local function told_all(self, host, seen)
  local stats = self:stats(host)
  if stats then
    seen.ready = seen.ready or {}
    seen.ready[stats.pid] = stats.redis == "ready" or nil
    seen.told = seen.told or (stats.subscribed and stats.queued == 0)
  end
  local pids = self.nodes[host]:worker_pids()
  for _, pid in ipairs(pids) do
    if not (seen.ready and seen.ready[pid]) then
      return false
    end
  end
  return seen.told and #pids == WORKERS
end

--- Waits until this has been so for each host, at some moment since the call.
---@return { from: number, to: number }
function Cluster:settle()
  local from = record.now()
  local open = {}
  for host = 1, #self.nodes do
    open[host] = {}
  end
  helper.wait_until(function()
    for host, seen in pairs(open) do
      if told_all(self, host, seen) then
        open[host] = nil
      end
    end
    return next(open) == nil
  end, { timeout = 20, interval = 0.02, message = "the nodes do not find back to Redis" })
  return { from = from, to = record.now() }
end

--- Ends the load: every operation has had the time to end.
---@param patience number seconds
function Cluster:stop(patience)
  self.shared.stop = 1
  local deadline = record.now() + patience
  local open
  repeat
    helper.sleep(0.05)
    open = 0
    for host = 1, #self.nodes do
      for _, pid in ipairs(self.nodes[host]:worker_pids()) do
        open = open + self:open_operations(host, pid)
      end
    end
  until open == 0 or record.now() > deadline
  self.ended = record.now()
end

local function logs(self, host, pid)
  local list, n = {}, 1
  while true do
    local path = ("%s/log.%d.%d.%d"):format(self.dir, host, pid, n)
    local file = io.open(path)
    if not file then
      return list
    end
    file:close()
    list[n] = path
    n = n + 1
  end
end

---@return integer operations of a process that have not ended
function Cluster:open_operations(host, pid)
  local open = 0
  for _, path in ipairs(logs(self, host, pid)) do
    local ops = {}
    local records = record.read(path, ops)
    for _, op in ipairs(ops) do
      open = open + (op.finish == 0 and 1 or 0)
    end
    record.release(records)
  end
  return open
end

--- All operations that were recorded.
---@return table[]
function Cluster:operations()
  local list = {}
  local _, names = helper.process.run { "find", self.dir, "-name", "log.*" }
  for path in names:gmatch "[^\n]+" do
    record.read(path, list)
  end
  return list
end

--- Lines that the nodes logged as errors.
---@return string[]
function Cluster:errors()
  local lines = {}
  for _, nginx in ipairs(self.nodes) do
    for _, line in ipairs(nginx:log_lines()) do
      -- the master on a worker that was killed
      if not line:match "exited on signal 9" then
        lines[#lines + 1] = line
      end
    end
  end
  return lines
end

return _M
