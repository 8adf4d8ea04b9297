-- SPDX-License-Identifier: MIT
--- What specs share. Loaded by busted before each run (see .busted), which sets the search path; a spec takes it with
--- `local helper = require "spec.helper"`. Run from the root of the checkout.
---
---     local redis = helper.redis()                      -- a server of its own, stopped with the file
---     local nginx = helper.nginx { server = [[ location / { … } ]] }
---     assert.equal(200, nginx:get("/").status)
---
--- Everything that is started through here is stopped at the end of the spec file, and dies with the test process.
package.path = "./?.lua;./?/init.lua;" .. package.path

local paths = require "spec.support.paths"
local process = require "spec.support.process"

package.path = paths.lua_path .. ";" .. package.path
process.set_env("GORGE_LIBRARY", paths.library)

---@class gorge.spec.helper
local _M = {
  paths = paths,
  process = process,
  http = require "spec.support.http",
  net = require "spec.support.net",
  now = process.now,
  sleep = process.sleep,
  wait_until = process.wait_until,
  read_file = process.read_file,
  write_file = process.write_file,
}

local cleanups = {}

--- Registers something to be undone at the end of the spec file.
---@param fn fun()
function _M.defer(fn)
  cleanups[#cleanups + 1] = fn
end

--- Undoes everything registered, last first. Runs by itself at the end of each spec file.
function _M.cleanup()
  local first_error
  while #cleanups > 0 do
    local ok, err = pcall(table.remove(cleanups))
    first_error = first_error or (not ok and err) or nil
  end
  if first_error then
    error(first_error, 0)
  end
end

--- A redis-server of its own; see support/redis.lua.
---@param opts? table
---@return gorge.spec.Redis
function _M.redis(opts)
  local server = require("spec.support.redis").start(opts)
  _M.defer(function() server:stop() end)
  return server
end

--- A master, its replicas and sentinels; see support/sentinel.lua.
---@param opts? table
---@return gorge.spec.Replicated
function _M.replicated(opts)
  local set = require("spec.support.sentinel").start(opts)
  _M.defer(function() set:stop() end)
  return set
end

--- Six nodes of a Redis Cluster; see support/cluster.lua.
---@param opts? table
---@return gorge.spec.Cluster
function _M.cluster(opts)
  local cluster = require("spec.support.cluster").start(opts)
  _M.defer(function() cluster:stop() end)
  return cluster
end

--- A relay in front of a redis-server, which can be made to fail; see support/relay.lua.
---@param server gorge.spec.Redis
---@return gorge.spec.Relay
function _M.relay(server)
  local relay = require("spec.support.relay").start(server.port)
  _M.defer(function() relay:stop() end)
  return relay
end

--- An nginx of its own; see support/nginx.lua.
---@param opts table
---@return gorge.spec.Nginx
function _M.nginx(opts)
  local server = require("spec.support.nginx").start(opts)
  _M.defer(function() server:stop() end)
  return server
end

--- A child process; see support/process.lua.
---@param opts table
---@return gorge.spec.Process
function _M.spawn(opts)
  local child = process.spawn(opts)
  _M.defer(function() child:stop(process.SIGKILL) end)
  return child
end

--- An empty folder, removed at the end.
---@return string
function _M.temp_dir()
  local dir = process.temp_dir()
  _M.defer(function() process.remove_dir(dir) end)
  return dir
end

--- Runs a Lua program under LuaJIT with the checkout's modules.
---@param code string
---@param opts? { env?: table, timeout?: number, cwd?: string }
---@return integer? status
---@return string output
function _M.luajit(code, opts)
  opts = opts or {}
  local dir = process.temp_dir()
  process.write_file(dir .. "/main.lua", code)
  local env = { GORGE_LIBRARY = paths.library, LUA_PATH = paths.lua_path .. ";" .. paths.root .. "/?.lua;;" }
  for name, value in pairs(opts.env or {}) do
    env[name] = value
  end
  local status, output = process.run {
    "luajit", dir .. "/main.lua", env = env, timeout = opts.timeout, cwd = opts.cwd,
  }
  process.remove_dir(dir)
  return status, output
end

--- The l1_size of a zone in which two tags hardly ever share a generation, nor two keys a stamp. In one of 4 MB one pair of 1024 tags does, at random: what
--- carries one of them goes with the other. So does one pair of 2048 keys: of two fills at once the second is not kept.
_M.ROOMY = "256m"

local names = 0

--- A name for a namespace or zone that no other test and no other run uses.
---@param prefix? string
---@return string
function _M.unique_name(prefix)
  names = names + 1
  return ("%s-%d-%d"):format(prefix or "spec", process.own_pid(), names)
end

local ok, busted = pcall(require, "busted")
if ok and busted.subscribe then
  busted.subscribe({ "file", "end" }, function()
    _M.cleanup()
    return nil, true
  end)
end

return _M
