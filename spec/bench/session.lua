-- SPDX-License-Identifier: MIT
--- One row's servers: an nginx of two pinned workers, a Redis where the row wants one, and a connection to each worker.
local cjson = require "cjson"
local helper = require "spec.helper"
local http = require "spec.support.http"

local _M = {}

local TIMEOUT = 120

local HTTP = [[
  lua_shared_dict bench 2m;
  lua_shared_dict peer {{size}};
  lua_socket_pool_size 200;
  init_by_lua_block { require("spec.bench.worker").init("{{id}}", {{redis}}) }
]]

local SERVER = [[
  client_body_buffer_size 64k;
  location = /bench { content_by_lua_block { require("spec.bench.worker").serve() } }
  location ~ ^/handle/(?<side>\d+)$ { content_by_lua_block { require("spec.bench.worker").handle(tonumber(ngx.var.side)) } }
]]

---@class gorge.bench.Session
---@field row gorge.bench.Row
---@field nginx gorge.spec.Nginx
---@field redis gorge.spec.Redis|nil
---@field connections gorge.spec.Connection[] of the workers that the row uses
local Session = {}
Session.__index = Session

local function lua_path(modules)
  local parts = { helper.paths.lua_path, helper.paths.root .. "/?.lua" }
  for _, dir in pairs(modules) do
    parts[#parts + 1] = dir .. "/lib/?.lua;" .. dir .. "/?.lua"
  end
  return table.concat(parts, ";")
end

local function workers_of(row)
  local most = row.workers
  for _, side in ipairs(row.sides) do
    most = math.max(most, side.workers or 0)
  end
  return most
end

local samples = 0

---@param row gorge.bench.Row
---@return gorge.bench.Session
function _M.new(row)
  return setmetatable({ row = row, connections = {} }, Session)
end

--- Starts everything and prepares the row; after a failure `close` stops what has been started.
---@param settings table quick, runs, modules
function Session:open(settings)
  local row = self.row
  local redis = "nil"
  if row.redis then
    self.redis = require("spec.support.redis").start { config = row.redis_config }
    -- A timeout that a busy machine does not reach.
    redis = ("{ host = '127.0.0.1', port = %d, timeout = 10 }"):format(self.redis.port)
  end
  local values = { size = row.cache.l1_size, id = row.id, redis = redis }
  self.nginx = require("spec.support.nginx").start {
    workers = 2, main = "worker_cpu_affinity auto;", log_level = "warn", server = SERVER,
    http = HTTP:gsub("{{(%w+)}}", values), lua_path = lua_path(settings.modules),
    module = row.module and helper.paths.build .. "/ngx_gorge_module.so" or false,
  }
  for id = 0, workers_of(row) - 1 do
    self.connections[id + 1] = self.nginx:connect_worker(id)
  end
  local request = {
    what = "prepare", quick = settings.quick, runs = settings.runs, modules = settings.modules,
    redis = self.redis and { host = "127.0.0.1", port = self.redis.port } or nil,
  }
  for id, connection in ipairs(self.connections) do
    request.fill = id == #self.connections -- when all have what they need
    self:ask({ connection }, request)
  end
  self:ask(self.connections, { what = "settle" })
end

--- Sends a request to workers, all at once.
---@param connections gorge.spec.Connection[]
---@param request table
---@return table[]
function Session:ask(connections, request)
  local results = {}
  for i, response in ipairs(http.on_each(connections, {
    uri = "/bench", method = "POST", body = cjson.encode(request), timeout = TIMEOUT,
  })) do
    if response.status ~= 200 then
      error(("%s: a worker failed: %s\n%s"):format(self.row.id, response.err or response.body, self.nginx:error_log():sub(1, 1000)), 0)
    end
    results[i] = cjson.decode(response.body)
  end
  return results
end

-- wrk counts in whole seconds.
function Session:wrk(side, seconds)
  local status, output = helper.process.run {
    "wrk", "-t1", "-c50", ("-d%ds"):format(math.ceil(seconds)), ("http://127.0.0.1:%d/handle/%d"):format(self.nginx.port, side),
  }
  local requests, spent = output:match "(%d+) requests in ([%d.]+)s"
  if status ~= 0 or not requests or output:match "Non%-2xx" or output:match "Socket errors" then
    error(("%s: wrk: %s\n%s"):format(self.row.id, output, self.nginx:error_log():sub(1, 1000)), 0)
  end
  requests = tonumber(requests)
  return { { ops = requests, good = requests, seconds = tonumber(spent), loads = 0, traces = {} } }
end

--- Measures one side once.
---@param index integer of the side
---@param seconds number
---@return table[] results of the workers that took part
function Session:sample(index, seconds)
  local row = self.row
  if row.task == "http" then
    return self:wrk(index, seconds)
  end
  samples = samples + 1
  local workers = row.sides[index].workers or row.workers
  local connections = {}
  for i = 1, workers do
    connections[i] = self.connections[i]
  end
  return self:ask(connections, { what = "sample", side = index, seconds = seconds, workers = workers, token = "sample" .. samples })
end

--- Which layers answer: source → how many of 1,000.
---@return table<string, integer>
function Session:sources()
  return self:ask({ self.connections[1] }, { what = "sources" })[1]
end

function Session:close()
  for _, connection in ipairs(self.connections) do
    connection:close()
  end
  if self.nginx then
    self.nginx:stop()
  end
  if self.redis then
    self.redis:stop()
  end
end

return _M
