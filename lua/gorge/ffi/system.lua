-- SPDX-License-Identifier: MIT
-- The few things that the command line asks of the system and Lua cannot.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"

-- Own names for libc's functions: a VM has one namespace for declarations.
ffi.cdef [[
int gorge_system_isatty(int fd) __asm__("isatty");
int gorge_system_poll(void *fds, unsigned long count, int timeout_ms) __asm__("poll");
unsigned gorge_system_geteuid(void) __asm__("geteuid");
]]

local _M = {}

---Whether standard output is a terminal.
---@return boolean
function _M.is_terminal()
  return ffi.C.gorge_system_isatty(1) == 1
end

---@return number seconds of a clock that only goes forward
function _M.now()
  return C.gorge_now_us() / 1e6
end

---@param seconds number
function _M.sleep(seconds)
  ffi.C.gorge_system_poll(nil, 0, math.max(0, math.ceil(seconds * 1000)))
end

---@return integer
function _M.user()
  return ffi.C.gorge_system_geteuid()
end

return _M
