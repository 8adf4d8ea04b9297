-- SPDX-License-Identifier: MIT
--- What LuaJIT could not compile while a measured loop ran: aborted traces, and traces that go on in the interpreter. Runs inside nginx.
local jit = require "jit"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local _M = {}

local found = {}
local started, started_here = "?", false -- where the trace that is being recorded began

-- The bench itself is not what is being measured: where its own code goes round, and where a measured loop ends and it goes on.
local MEASURED = { subjects = true, loader = true }

---@return string
---@return boolean own code of the bench
local function location(func, pc)
  local info = util.funcinfo(func, pc)
  if info.loc then
    local own = info.source:match "/spec/bench/(%w+)%.lua$"
    return info.loc, own ~= nil and not MEASURED[own]
  end
  return info.ffid and vmdef.ffnames[info.ffid] or "a C function", false
end

local function reason(code, detail)
  if type(code) == "number" then
    if type(detail) == "function" then
      detail = (location(detail))
    end
    return vmdef.traceerr[code]:format(detail)
  end
  return tostring(code)
end

-- Traces that a link of these types ends leave compiled code without an abort.
local LEAVES = { stitch = "a call that cannot be compiled", interpreter = "falls back to the interpreter" }

local function note(text, place, own)
  if own or started_here then
    return
  end
  text = text .. " at " .. place .. ", in a trace from " .. started
  found[text] = (found[text] or 0) + 1
end

local function on_event(what, trace, func, pc, code, detail)
  if what == "start" then
    started, started_here = location(func, pc)
  elseif what == "abort" then
    note(reason(code, detail), location(func, pc))
  elseif what == "stop" then
    local leaves = LEAVES[util.traceinfo(trace).linktype]
    if leaves then
      note(leaves, location(func, pc))
    end
  elseif what == "flush" then
    found["all traces were flushed"] = 1
  end
end

-- The watcher is not what is being watched.
for _, fn in ipairs { location, reason, note, on_event } do
  jit.off(fn)
end

function _M.on()
  jit.attach(on_event, "trace")
end

function _M.off()
  jit.attach(on_event)
end

--- Everything noted since the last call: text → how often.
---@return table<string, integer>
function _M.take()
  local taken = found
  found = {}
  return taken
end

return _M
