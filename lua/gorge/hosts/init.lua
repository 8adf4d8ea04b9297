-- SPDX-License-Identifier: MIT
-- Hosts: how a cache waits and how its Redis bytes move. One per kind of program.

local _M = {}

---@class gorge.Host
---@field name string
---@field engine fun(parsed: gorge.ParsedOptions): gorge.Engine|nil, string?
---@field enter fun(engine: gorge.Engine): boolean|nil, string? readies the process at a miss
---@field can_wait fun(engine: gorge.Engine): boolean, string? whether the caller may wait here and now
---@field waiter fun(): gorge.Waiter
---@field guard fun(engine: gorge.Engine, op: integer) gives the operation up when its coroutine is ended from outside
---@field kick fun(engine: gorge.Engine) bytes may wait to be sent
---@field watch fun(engine: gorge.Engine, op: integer, waiter: gorge.Waiter) the host may signal it itself when the operation's status changes
---@field unwatch fun(engine: gorge.Engine, op: integer) and no more
---@field expect fun(engine: gorge.Engine) an operation begins to wait
---@field background fun(engine: gorge.Engine, job: gorge.Job): boolean|nil, string? true: it will be run; nil and why not; nil: there is no background here
---@field has_background fun(): boolean false: what is to be done in the background is done by who finds it due
---@field follow fun(engine: gorge.Engine) a coroutine begins to wait for another one of this process
---@field drain fun(engine: gorge.Engine, seconds: number)
---@field close fun(engine: gorge.Engine)
---@field clock ffi.cdata*|nil see ffi/engine.lua
---@field now fun(): number milliseconds
---@field log fun(level: string, message: string, fields: table|nil)

---@class gorge.Waiter
---@field blocks boolean|nil no other coroutine of this process runs while it waits
---@field wait fun(self: gorge.Waiter, seconds: number): boolean false when the time is over
---@field signal fun(self: gorge.Waiter)
---@field release fun(self: gorge.Waiter) the caller waits no more and keeps no reference

---@param name "auto"|"nginx"|"loop"|"blocking"
---@return gorge.Host
function _M.choose(name)
  local in_nginx = ngx ~= nil and type(ngx.get_phase) == "function" and ngx.config ~= nil
  if name == "auto" then
    name = in_nginx and "nginx" or "plain"
  elseif name == "nginx" and not in_nginx then
    error("gorge: option 'host' is \"nginx\", but this is not nginx", 3)
  elseif name == "loop" and in_nginx then
    error("gorge: option 'host' is \"loop\", but the loop does not run inside nginx", 3)
  end
  if name == "nginx" then
    return require "gorge.hosts.nginx"
  elseif name == "plain" then
    return require("gorge.hosts.loop").auto
  elseif name == "loop" then
    return require("gorge.hosts.loop").strict
  end
  return require "gorge.hosts.blocking"
end

return _M
