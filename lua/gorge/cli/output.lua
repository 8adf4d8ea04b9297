-- SPDX-License-Identifier: MIT
-- What commands write, how they fail, and colours where somebody looks.

local cjson = require("cjson").new()
local system = require "gorge.ffi.system"

cjson.encode_sparse_array(true)
cjson.encode_number_precision(14)

local _M = {}

-- Exit statuses.
_M.OK, _M.NOTHING, _M.USAGE, _M.UNREACHABLE = 0, 1, 2, 3

local COLOURS = { good = 32, warn = 33, bad = 31, dim = 2, bold = 1 }

_M.is_terminal = system.is_terminal()
local coloured = _M.is_terminal and (os.getenv "NO_COLOR" or "") == "" and os.getenv "TERM" ~= "dumb"

---@param text string
---@param tone "good"|"warn"|"bad"|"dim"|"bold"
---@return string
function _M.paint(text, tone)
  return coloured and ("\27[%dm%s\27[0m"):format(COLOURS[tone], text) or text
end

---@param text string
function _M.say(text)
  io.stdout:write(text, "\n")
end

-- Not every cjson can be told that an empty table is an array. No other text has these bytes: what is foreign was escaped.
local EMPTY = "\1[]\1"
local EMPTY_ENCODED = cjson.encode(EMPTY)

---A list for JSON, also when it is empty.
---@param list table
---@return table|string
function _M.array(list)
  return #list > 0 and list or EMPTY
end

---One JSON document on a line of its own.
---@param value table
function _M.json(value)
  local text = cjson.encode(value)
  local at = text:find(EMPTY_ENCODED, 1, true)
  while at do
    text = text:sub(1, at - 1) .. "[]" .. text:sub(at + #EMPTY_ENCODED)
    at = text:find(EMPTY_ENCODED, at, true)
  end
  io.stdout:write(text, "\n")
  io.stdout:flush()
end

---Says what happens to who waits at a terminal; nothing to a program.
---@param text string
function _M.progress(text)
  io.stderr:write("gorge: ", text, "\n")
end

---Ends the command with a status and a sentence; raised, caught by main.
---@param status integer
---@param text string
function _M.fail(status, text)
  error(setmetatable({ status = status, text = text }, _M), 0)
end

---Fails unless each of these options that was given is a number of seconds to wait.
---@param options table<string, number|nil>
function _M.check_seconds(options)
  for name, value in pairs(options) do
    if not (value >= 0.1 and value <= 1e6) then
      _M.fail(_M.USAGE, name .. " takes 0.1 to 1000000 seconds")
    end
  end
end

---Looks at something once, or every `interval` seconds for at most `limit` seconds.
---@param interval number|nil
---@param limit number|nil
---@return fun(): integer|nil
function _M.looks(interval, limit)
  _M.check_seconds { ["--watch"] = interval, ["--for"] = limit }
  local count, started = 0, system.now()
  return function()
    if count > 0 then
      local left = limit and limit - (system.now() - started)
      if not interval or left and left <= 0 then
        return nil
      end
      system.sleep(left and math.min(left, interval) or interval)
    end
    count = count + 1
    return count
  end
end

---A new look at the screen, where there is one.
function _M.refresh()
  if _M.is_terminal then
    io.stdout:write "\27[H\27[2J"
  end
end

return _M
