-- SPDX-License-Identifier: MIT
-- The command line: its commands, their arguments, and their exit statuses.

local output = require "gorge.cli.output"
local version = require "gorge.version"

local _M = {}

-- In the order of the help.
local COMMANDS = {
  { "zones", "gorge.cli.list", "zones that processes of this machine have open" },
  { "stat", "gorge.cli.stat", "counters, latencies, memory, breaker and freshness", zone = true },
  { "top", "gorge.cli.top", "the keys that are used most, live", zone = true },
  { "watch", "gorge.cli.watch", "invalidations and changes of state, as they happen", zone = true },
  { "peek", "gorge.cli.peek", "what shared memory holds of a key", zone = true },
  { "explain", "gorge.cli.explain", "why a worker would find a key in shared memory, or not", zone = true },
  { "delete", "gorge.cli.delete", "forget keys, on all nodes", zone = true },
  { "invalidate", "gorge.cli.invalidate", "forget what carries a tag, on all nodes", zone = true },
  { "clear", "gorge.cli.clear", "forget all of a namespace, on all nodes", zone = true },
  { "doctor", "gorge.cli.doctor", "checks libraries, versions, limits and Redis" },
}

local EPILOG = [[
Attaches to the shared memory of running workers without stopping them. ZONE is a zone's name, or the path of a copy of one.
Exit status: 0; 1 no such thing; 2 wrong usage; 3 cannot attach.

Examples:
  gorge zones
  gorge stat my-app
  gorge doctor --redis redis://127.0.0.1:6379/0]]

---argparse is a Debian package, and a rock; nothing else of gorge needs it.
local function argparse()
  local ok, module = pcall(require, "argparse")
  if not ok then
    output.fail(output.USAGE, "the command line needs the Lua module argparse: apt-get install lua-argparse, or luarocks install argparse")
  end
  return module
end

local function to_pid(text)
  local pid = tonumber(text)
  if pid and pid > 0 and pid % 1 == 0 then
    return pid
  end
  return nil, "a process id is a whole number above 0"
end

local function add_zone(command)
  command:argument("zone", "Name of the zone; with a slash in it the path of a file."):argname "ZONE"
  command:option("-n --namespace", "The namespace, if the zone has several."):argname "NAME"
  command:option("-p --pid", "A process that has the zone open, if several servers have one of that name."):argname "PID":convert(to_pid)
end

---@return table parser
---@return table<string, table> modules by command
function _M.parser()
  local parser = argparse()("gorge", "Looks into the caches of running workers.", EPILOG)
  parser:command_target "command"
  parser:help_max_width(110)
  parser:flag("--version", "Show the version and exit."):action(function()
    output.say("gorge " .. version)
    os.exit(output.OK)
  end)
  parser:add_complete()
  local modules = {}
  for _, entry in ipairs(COMMANDS) do
    local module = require(entry[2])
    local command = parser:command(entry[1]):summary(entry[3])
    if entry.zone then
      add_zone(command)
    end
    module.describe(command)
    command:flag("--json", "JSON for programs.")
    modules[entry[1]] = module
  end
  return parser, modules
end

local function run(arguments)
  local parser, modules = _M.parser()
  local ok, args = parser:pparse(arguments)
  if not ok then
    output.fail(output.USAGE, args .. "; gorge --help tells more")
  end
  return modules[args.command].run(args)
end

---Runs one command.
---@param arguments string[]
---@return integer exit status
function _M.main(arguments)
  local ok, result = xpcall(run, function(problem)
    return getmetatable(problem) == output and problem or { status = output.UNREACHABLE, text = debug.traceback(tostring(problem), 2) }
  end, arguments)
  if ok then
    return result
  end
  io.stdout:flush()
  io.stderr:write("gorge: ", result.text, "\n")
  return result.status
end

return _M
