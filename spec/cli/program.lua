-- SPDX-License-Identifier: MIT
--- Runs the checkout's `gorge` as a user would.
local cjson = require "cjson"
local helper = require "spec.helper"
local paths = helper.paths
local process = helper.process

local _M = { path = paths.root .. "/lua/gorge/cli/gorge" }

local ENV = { GORGE_LIBRARY = paths.library, LUA_PATH = paths.lua_path .. ";;", LUA_CPATH = false, NO_COLOR = "1", GORGE_REDIS = false }

local function command_of(arguments)
  local command = { "luajit", _M.path }
  for i, argument in ipairs(arguments) do
    command[i + 2] = tostring(argument)
  end
  command.env = {}
  for name, value in pairs(ENV) do
    command.env[name] = value
  end
  for name, value in pairs(arguments.env or {}) do
    command.env[name] = value
  end
  return command
end

---@class gorge.spec.Said
---@field status integer
---@field out string standard output
---@field err string standard error

--- Runs a command to its end.
---@param arguments string[] with `env` and `timeout`
---@return gorge.spec.Said
function _M.run(arguments)
  local folder = process.temp_dir()
  local command = command_of(arguments)
  command.stdout, command.stderr = folder .. "/out", folder .. "/err"
  local running = process.spawn(command)
  local status = running:wait(arguments.timeout or 30)
  if not status then
    running:stop(process.SIGKILL)
  end
  local said = { status = status, out = process.read_file(folder .. "/out"), err = process.read_file(folder .. "/err") }
  process.remove_dir(folder)
  assert(status, "gorge " .. table.concat(arguments, " ") .. " does not end: " .. said.out .. said.err)
  return said
end

--- The same with --json: what it says, decoded.
---@param arguments string[]
---@return table
---@return integer status
function _M.json(arguments)
  arguments[#arguments + 1] = "--json"
  local said = _M.run(arguments)
  local ok, decoded = pcall(cjson.decode, said.out)
  assert(ok, "not JSON: " .. said.out .. said.err)
  return decoded, said.status
end

--- Starts a command that goes on; its lines so far are read with `lines`.
---@param arguments string[]
---@return gorge.spec.Process
function _M.start(arguments)
  local folder = helper.temp_dir()
  local command = command_of(arguments)
  command.stdout, command.stderr = folder .. "/out", folder .. "/err"
  local running = helper.spawn(command)
  function running.text()
    return (process.read_file(folder .. "/out") or "") .. (process.read_file(folder .. "/err") or "")
  end
  function running.lines()
    local list = {}
    for line in (process.read_file(folder .. "/out") or ""):gmatch "([^\n]*)\n" do
      list[#list + 1] = line
    end
    return list
  end
  return running
end

return _M
