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

--- How long this process has been ready to run while other programs had its processor.
local function waited()
  local file = io.open "/proc/self/schedstat"
  local seconds = file and tonumber((file:read "*l":match "^%d+ (%d+)")) / 1e9
  if file then
    file:close()
  end
  return seconds or 0
end

--- A clock that stands still while this process is ready to run and other programs have its processor: they are not what is measured. What it
--- sleeps or spins counts. (Where the kernel does not tell, it is `now`.) A system call: for begin and end of a loop.
---@return number seconds
function _M.own()
  local before, at
  local after = waited()
  for _ = 1, 100 do
    before, at = after, _M.now()
    after = waited()
    if before == after then -- both are of one moment: it has not had to wait in between
      break
    end
  end
  return at - after
end

jit.off(waited)
jit.off(_M.own) -- a trace that leaves a measured loop shall not go on in here

--- A counter that compiled code raises without making an object: index 0.
function _M.counter()
  return ffi.new "double[1]"
end

return _M
