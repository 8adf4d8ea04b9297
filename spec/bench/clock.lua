-- SPDX-License-Identifier: MIT
--- Clocks of the kernel, the same in all processes. Runs inside nginx.
local ffi = require "ffi"

ffi.cdef [[
struct gorge_bench_timespec { long sec; long nsec; };
int gorge_bench_clock_gettime(int clock, struct gorge_bench_timespec *ts) __asm__("clock_gettime");
]]
local C = ffi.C

local CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID = 1, 2

local _M = {}

local timespec = ffi.new "struct gorge_bench_timespec"

local function read(clock)
  C.gorge_bench_clock_gettime(clock, timespec)
  return tonumber(timespec.sec) + tonumber(timespec.nsec) / 1e9
end

---@return number seconds
function _M.now()
  return read(CLOCK_MONOTONIC)
end

---@return number seconds of processor time, of all threads of this process
function _M.cpu()
  return read(CLOCK_PROCESS_CPUTIME_ID)
end

--- A counter that compiled code raises without making an object: index 0.
function _M.counter()
  return ffi.new "double[1]"
end

return _M
