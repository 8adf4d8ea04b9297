-- SPDX-License-Identifier: MIT
-- A connection to Redis that is asked and waited for: checks of the command line.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local set_server = require("gorge.ffi.config").set_server

local ANSWER_SIZE = 65536

local _M = {}

---@class gorge.Asker
local Asker = {}
Asker.__index = Asker

---@param redis table the option `redis`, parsed
---@return gorge.Asker|nil
---@return string? err
function _M.open(redis)
  local config = ffi.new "struct gorge_config"
  set_server(config, redis)
  local out, buf = ffi.new "gorge_asker *[1]", ffi.new("char[?]", ANSWER_SIZE)
  local status = C.gorge_ask_open(config, out, buf, ANSWER_SIZE)
  if status ~= 0 then
    local said = ffi.string(buf)
    return nil, said ~= "" and said or ffi.string(C.gorge_status_phrase(status))
  end
  return setmetatable({ handle = ffi.gc(out[0], C.gorge_ask_end), buf = buf }, Asker)
end

---@param ... string the words of a command
---@return string|nil answer
---@return string? err what Redis, or the connection, had against it; nil without an answer: nil
function Asker:ask(...)
  local words = { ... }
  local argv = ffi.new("const char *[?]", #words)
  for i, word in ipairs(words) do
    argv[i - 1] = word
  end
  local status = C.gorge_ask(self.handle, #words, argv, self.buf, ANSWER_SIZE)
  if status == 0 then
    return ffi.string(self.buf)
  end
  return nil, status < 0 and ffi.string(self.buf) or nil
end

---Milliseconds that a PING takes.
---@return number|nil
---@return string? err
function Asker:ping()
  local start = C.gorge_now_us()
  local ok, err = self:ask "PING"
  if not ok then
    return nil, err
  end
  return (C.gorge_now_us() - start) / 1e6
end

return _M
