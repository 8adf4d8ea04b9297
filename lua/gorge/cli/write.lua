-- SPDX-License-Identifier: MIT
-- What delete, invalidate and clear have in common: a namespace with Redis is written by its workers, asked through the zone's mailbox; one without
-- by this process, which works in the zone for a moment.

local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local system = require "gorge.ffi.system"
local text = require "gorge.text"
local visitor = require "gorge.ffi.visitor"
local zones = require "gorge.cli.zones"

local _M = {}

local DEFAULT_TIMEOUT = 5
local LOOK_EVERY, WAKE_EVERY = 0.002, 0.25

function _M.describe(command, examples)
  command:option("--timeout", "How long to wait for the workers, in seconds (5).", DEFAULT_TIMEOUT):argname "SECONDS":convert(tonumber)
  command:epilog("Examples:\n" .. examples .. [[


Exit status: 0; 1 when this host is done but Redis could not be told yet, or there is no such zone; 3 when no worker can be reached.]])
end

---Waits until a request has its end.
---@return integer|nil status nil: there was none in time
---@return string text
local function wait(seen, ns, what, name, timeout)
  local deadline, woken = system.now() + timeout, 0
  local ticket
  while system.now() < deadline do
    if not ticket then
      ticket = seen:ask(ns.number, what, name, timeout)
      woken = 0
    end
    if ticket then
      if system.now() - woken >= WAKE_EVERY then
        seen:wake()
        woken = system.now()
      end
      local status, said = seen:answer(ticket)
      if status == visitor.REFUSED then
        ticket = nil
      elseif status ~= visitor.PENDING and status ~= visitor.BUSY then
        return status, said
      end
    end
    system.sleep(LOOK_EVERY)
  end
  local state = ticket and seen:answer(ticket)
  if ticket then
    seen:cancel(ticket)
  end
  return nil, state == visitor.BUSY and "a worker has taken it, and does not come to an end" or "no worker took it"
end

local function through_workers(seen, ns, what, names, timeout, tell)
  if seen:listeners() == 0 then
    output.fail(output.UNREACHABLE, "no worker of the zone listens: they begin with their first miss after the server was started; "
      .. "nothing was done")
  end
  for _, name in ipairs(names) do
    local status, said = wait(seen, ns, what, name, timeout)
    if not status then
      output.fail(output.UNREACHABLE, ("%s within %g s%s"):format(said, timeout, name ~= "" and ": " .. format.escape(name, 200) or ""))
    end
    tell(name, status, said)
  end
end

local function by_itself(args, ns, what, names, tell)
  local seen = zones.attach(args, "work")
  for _, name in ipairs(names) do
    tell(name, seen:forget(ns.number, what, name), "")
  end
end

---@param args table
---@param what "key"|"tag"|"all"
---@param names string[]
---@param done string what is said of each name
function _M.run(args, what, names, done)
  if not (args.timeout and args.timeout >= 0.1 and args.timeout <= 3600) then
    output.fail(output.USAGE, "--timeout takes 0.1 to 3600 seconds")
  end
  local seen = zones.attach(args, "mail")
  local ns = zones.namespace(seen, args.namespace)
  local results, failed = {}, false
  local function tell(name, status, said)
    local shown = name ~= "" and format.escape(name) or nil
    local problem
    if status ~= 0 then
      failed = true
      problem = visitor.phrase(status) .. (said ~= "" and ": " .. text.printable(said, 200) or "")
    end
    results[#results + 1] = { name = shown, ok = status == 0, error = problem }
    if not args.json then
      local label = shown or "namespace " .. format.escape(ns.name)
      output.say(problem and ("%s: %s on this host, but not in Redis, which is told later: %s"):format(label, done, problem)
        or ("%s: %s"):format(label, done))
      io.stdout:flush()
    end
  end
  if ns.redis then
    through_workers(seen, ns, what, names, args.timeout, tell)
  else
    by_itself(args, ns, what, names, tell)
  end
  if args.json then
    output.json { zone = format.escape(seen.zone), namespace = format.escape(ns.name), ok = not failed, results = output.array(results) }
  end
  return failed and output.NOTHING or output.OK
end

return _M
