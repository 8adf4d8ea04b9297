-- SPDX-License-Identifier: MIT
--- Operations as they are recorded: fixed records in files that the workers map, so that what was recorded outlives a worker that is killed
--- in the middle of it. Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
local ffi = require "ffi"

ffi.cdef [[
struct gorge_history_op {
  double start, finish; /* finish 0: its end was not recorded */
  double clock;         /* of a read: the time that the cache went by when it began */
  double value;         /* read, loaded or written; 0: nothing that is known */
  double before;        /* of an update: what it replaced; of a fetch: 1 when what its loader returned was stored nowhere */
  uint32_t key;         /* its number; of `tags`: the number of the tag */
  uint32_t pid;
  uint8_t kind, result, source, host;
};
struct gorge_history_shared {
  double stop;    /* not 0: the load is to end */
  double db[128]; /* the database: one value for each key */
};
int gorge_history_open(const char *path, int flags, ...) __asm__("open");
int gorge_history_close(int fd) __asm__("close");
int gorge_history_ftruncate(int fd, long size) __asm__("ftruncate");
void *gorge_history_mmap(void *at, size_t size, int prot, int flags, int fd, long offset) __asm__("mmap");
int gorge_history_munmap(void *at, size_t size) __asm__("munmap");
struct gorge_history_timespec { long sec; long nsec; };
int gorge_history_clock_gettime(int clock, struct gorge_history_timespec *ts) __asm__("clock_gettime");
]]
local C = ffi.C

local O_RDWR, O_CREAT = 2, 64
local READ_WRITE, SHARED = 3, 1
local CLOCK_MONOTONIC = 1

local _M = {}

_M.KINDS = {
  [0] = "unused", "fetch", "get", "load", "write", "set", "delete", "tags", "clear", "update", "touch", "stall", "trouble",
}
_M.RESULTS = { [0] = "not ended", "ok", "nil", "miss", "failed" }
_M.SOURCES = { [0] = "-", "l0", "l1", "l2", "fn" }

for prefix, names in pairs { KIND = _M.KINDS, RESULT = _M.RESULTS, SOURCE = _M.SOURCES } do
  for number, name in pairs(names) do
    _M[prefix .. "_" .. name:upper():gsub(" ", "_"):gsub("-", "NONE")] = number
  end
end

local timespec = ffi.new "struct gorge_history_timespec"

---@return number seconds
function _M.now()
  C.gorge_history_clock_gettime(CLOCK_MONOTONIC, timespec)
  return tonumber(timespec.sec) + tonumber(timespec.nsec) * 1e-9
end

--- Maps a file, which is made or made longer if need be.
local function map(path, size)
  local fd = C.gorge_history_open(path, O_RDWR + O_CREAT, ffi.cast("int", 438)) -- 0666
  assert(fd >= 0, "cannot open " .. path)
  assert(C.gorge_history_ftruncate(fd, size) == 0, "cannot size " .. path)
  local at = C.gorge_history_mmap(nil, size, READ_WRITE, SHARED, fd, 0)
  C.gorge_history_close(fd)
  assert(ffi.cast("intptr_t", at) ~= -1, "cannot map " .. path)
  return at
end

--- What all processes of a run share.
---@param dir string
---@return ffi.cdata*
function _M.shared(dir)
  return ffi.cast("volatile struct gorge_history_shared *", map(dir .. "/shared", ffi.sizeof "struct gorge_history_shared"))
end

local SIZE = ffi.sizeof "struct gorge_history_op"
local PER_FILE = 65536

---@class gorge.history.Log
local Log = {}
Log.__index = Log

--- The records of one process.
---@param dir string
---@param host integer
---@param pid integer
---@return gorge.history.Log
function _M.log(dir, host, pid)
  return setmetatable({ path = ("%s/log.%d.%d."):format(dir, host, pid), host = host, pid = pid, files = 0, used = PER_FILE }, Log)
end

--- A new record, begun now.
---@param kind integer
---@param key integer
---@return ffi.cdata*
function Log:begin(kind, key)
  if self.used == PER_FILE then
    self.files = self.files + 1
    self.records = ffi.cast("struct gorge_history_op *", map(self.path .. self.files, PER_FILE * SIZE))
    self.used = 0
  end
  local op = self.records + self.used
  self.used = self.used + 1
  op.key, op.pid, op.host = key, self.pid, self.host
  op.start = _M.now()
  op.kind = kind -- last: from now on it counts
  return op
end

--- Adds the records of a file to a list. They live as long as the process.
---@param path string
---@param list table
function _M.read(path, list)
  local records = ffi.cast("struct gorge_history_op *", map(path, PER_FILE * SIZE))
  for i = 0, PER_FILE - 1 do
    local op = records + i
    if op.kind == 0 then
      break
    end
    list[#list + 1] = op
  end
  return records
end

--- Gives the memory of what `read` returned back; its records must not be used any more.
function _M.release(records)
  C.gorge_history_munmap(records, PER_FILE * SIZE)
end

return _M
