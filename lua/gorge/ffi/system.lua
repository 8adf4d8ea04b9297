-- SPDX-License-Identifier: MIT
-- The few things that the command line asks of the system and Lua cannot.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"

-- Own names for libc's functions: a VM has one namespace for declarations.
ffi.cdef [[
int gorge_system_isatty(int fd) __asm__("isatty");
int gorge_system_poll(void *fds, unsigned long count, int timeout_ms) __asm__("poll");
unsigned gorge_system_geteuid(void) __asm__("geteuid");
struct gorge_system_timespec { long sec; long nsec; };
int gorge_system_clock_gettime(int clock, struct gorge_system_timespec *ts) __asm__("clock_gettime");
]]

local _M = {}

---Whether standard output, or another descriptor, is a terminal.
---@param fd? integer
---@return boolean
function _M.is_terminal(fd)
  return ffi.C.gorge_system_isatty(fd or 1) == 1
end

---@return number seconds since 1970, with fractions
function _M.time()
  local ts = ffi.new "struct gorge_system_timespec"
  ffi.C.gorge_system_clock_gettime(0, ts)
  return tonumber(ts.sec) + tonumber(ts.nsec) / 1e9
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
