-- SPDX-License-Identifier: MIT
--- Child processes by pid: started without a shell, killed when the test process dies, waited for by pid.
local ffi = require "ffi"

-- Own names for libc's functions: a VM has one namespace for declarations, and the library under test uses it too.
ffi.cdef [[
int gorge_spec_fork(void) __asm__("fork");
int gorge_spec_execvp(const char *file, char *const argv[]) __asm__("execvp");
int gorge_spec_waitpid(int pid, int *status, int options) __asm__("waitpid");
int gorge_spec_kill(int pid, int sig) __asm__("kill");
int gorge_spec_open(const char *path, int flags, ...) __asm__("open");
int gorge_spec_dup2(int from, int to) __asm__("dup2");
int gorge_spec_chdir(const char *path) __asm__("chdir");
int gorge_spec_close_range(unsigned first, unsigned last, int flags) __asm__("close_range");
int gorge_spec_prctl(int op, ...) __asm__("prctl");
int gorge_spec_setenv(const char *name, const char *value, int overwrite) __asm__("setenv");
int gorge_spec_unsetenv(const char *name) __asm__("unsetenv");
int gorge_spec_getpid(void) __asm__("getpid");
int gorge_spec_getppid(void) __asm__("getppid");
unsigned gorge_spec_geteuid(void) __asm__("geteuid");
void gorge_spec_exit(int status) __asm__("_exit");
int gorge_spec_poll(void *fds, unsigned long count, int timeout_ms) __asm__("poll");
struct gorge_spec_timespec { long sec; long nsec; };
int gorge_spec_clock_gettime(int clock, struct gorge_spec_timespec *ts) __asm__("clock_gettime");
char *gorge_spec_mkdtemp(char *template) __asm__("mkdtemp");
char *gorge_spec_strerror(int err) __asm__("strerror");
]]
local C = ffi.C

local _M = {}

_M.SIGHUP, _M.SIGINT, _M.SIGQUIT, _M.SIGKILL, _M.SIGUSR1, _M.SIGUSR2 = 1, 2, 3, 9, 10, 12
_M.SIGTERM, _M.SIGCONT, _M.SIGSTOP, _M.SIGWINCH = 15, 18, 19, 28

local O_RDONLY, O_WRONLY, O_CREAT, O_APPEND = 0, 1, 64, 1024
local PR_SET_PDEATHSIG = 1
local WNOHANG = 1
local CLOCK_MONOTONIC = 1

local timespec = ffi.new "struct gorge_spec_timespec"

---@return number seconds of a clock that only goes forward
function _M.now()
  C.gorge_spec_clock_gettime(CLOCK_MONOTONIC, timespec)
  return tonumber(timespec.sec) + tonumber(timespec.nsec) / 1e9
end

---@param seconds number
function _M.sleep(seconds)
  C.gorge_spec_poll(nil, 0, math.max(0, math.ceil(seconds * 1000)))
end

--- Calls `condition` until it returns something true; raises when that takes too long.
---@param condition fun(): any
---@param opts? { timeout?: number, interval?: number, message?: string|fun(): string } defaults 10 s, 10 ms
---@return any what the condition returned
function _M.wait_until(condition, opts)
  opts = opts or {}
  local deadline = _M.now() + (opts.timeout or 10)
  while true do
    local late = _M.now() >= deadline -- there is always a look after it, however long this process stands still
    local result = condition()
    if result then
      return result
    end
    if late then
      local message = opts.message or "condition did not come true"
      if type(message) == "function" then
        message = message()
      end
      error(("%s within %g s"):format(message, opts.timeout or 10), 2)
    end
    _M.sleep(opts.interval or 0.01)
  end
end

---@return boolean whether this process may do anything
function _M.is_root()
  return C.gorge_spec_geteuid() == 0
end

--- Sets a variable in the environment of this process, which its children inherit.
---@param name string
---@param value string
function _M.set_env(name, value)
  C.gorge_spec_setenv(name, value, 1)
end

---@return integer
function _M.own_pid()
  return C.gorge_spec_getpid()
end

--- Sends a signal. Returns false when there is no such process.
---@param pid integer
---@param sig integer
---@return boolean
function _M.kill(pid, sig)
  assert(pid > 1, "refusing to signal pid " .. tostring(pid))
  return C.gorge_spec_kill(pid, sig) == 0
end

--- Whether a process exists and is not a zombie.
---@param pid integer
---@return boolean
function _M.exists(pid)
  local file = io.open("/proc/" .. pid .. "/stat")
  if not file then
    return false
  end
  local stat = file:read "*a"
  file:close()
  return stat ~= nil and not stat:match "%) [ZX] "
end

---@param pid integer
---@return integer[] pids of its children
function _M.children(pid)
  local pids = {}
  local file = io.open(("/proc/%d/task/%d/children"):format(pid, pid))
  if file then
    for child in (file:read "*a" or ""):gmatch "%d+" do
      pids[#pids + 1] = tonumber(child)
    end
    file:close()
  end
  return pids
end

---@param pid integer
---@return string command line with spaces between arguments; "" when gone
function _M.command_line(pid)
  local file = io.open("/proc/" .. pid .. "/cmdline", "rb")
  if not file then
    return ""
  end
  local text = file:read "*a" or ""
  file:close()
  return (text:gsub("%z", " "):gsub(" +$", ""))
end

---@param path string
---@return string? content
function _M.read_file(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local text = file:read "*a"
  file:close()
  return text
end

---@param path string
---@param content string
function _M.write_file(path, content)
  local file = assert(io.open(path, "wb"))
  assert(file:write(content))
  assert(file:close())
end

---@class gorge.spec.Process
---@field pid integer
local Process = {}
Process.__index = Process

-- Between fork and exec. An error must not return into the test: the child would go on running it.
local function exec_child(opts, argv)
  if opts.death_signal ~= 0 then
    C.gorge_spec_prctl(PR_SET_PDEATHSIG, ffi.cast("unsigned long", opts.death_signal or _M.SIGKILL))
    if C.gorge_spec_getppid() ~= opts.parent then
      C.gorge_spec_exit(126)
    end
  end
  local mode = ffi.cast("int", 420) -- 0644
  C.gorge_spec_dup2(C.gorge_spec_open(opts.stdin or "/dev/null", O_RDONLY), 0)
  local flags = O_WRONLY + O_CREAT + O_APPEND
  C.gorge_spec_dup2(C.gorge_spec_open(opts.stdout or "/dev/null", flags, mode), 1)
  C.gorge_spec_dup2(C.gorge_spec_open(opts.stderr or opts.stdout or "/dev/null", flags, mode), 2)
  C.gorge_spec_close_range(3, 0xffffffff, 0)
  for name, value in pairs(opts.env or {}) do
    if value then
      C.gorge_spec_setenv(name, tostring(value), 1)
    else
      C.gorge_spec_unsetenv(name)
    end
  end
  if not opts.cwd or C.gorge_spec_chdir(opts.cwd) == 0 then
    C.gorge_spec_execvp(argv[0], ffi.cast("char *const *", argv))
  end
  C.gorge_spec_exit(127)
end

---@class gorge.spec.SpawnOptions
---@field [integer] string program and arguments
---@field env? table<string, string|number|false> additions to the environment; false removes
---@field cwd? string
---@field stdin? string file to read (/dev/null)
---@field stdout? string file to append to (/dev/null)
---@field stderr? string file to append to (that of stdout)
---@field death_signal? integer what it gets when the test process dies (SIGKILL; 0: nothing)

--- Starts a program (found on PATH). It gets no descriptor but 0, 1 and 2.
---@param opts gorge.spec.SpawnOptions
---@return gorge.spec.Process
function _M.spawn(opts)
  local argv = ffi.new("const char *[?]", #opts + 1)
  for i, arg in ipairs(opts) do
    argv[i - 1] = arg
  end
  opts.parent = C.gorge_spec_getpid()
  io.stdout:flush()
  io.stderr:flush()
  local pid = C.gorge_spec_fork()
  assert(pid >= 0, "fork failed")
  if pid == 0 then
    pcall(exec_child, opts, argv)
    C.gorge_spec_exit(127)
  end
  return setmetatable({ pid = pid, name = opts[1] }, Process)
end
jit.off(_M.spawn)
jit.off(exec_child)

--- Whether it still runs; reaps it when it does not.
---@return boolean
function Process:alive()
  if self.result then
    return false
  end
  local status = ffi.new "int[1]"
  if C.gorge_spec_waitpid(self.pid, status, WNOHANG) == self.pid then
    local sig = bit.band(status[0], 0x7f)
    self.result = sig == 0 and bit.band(bit.rshift(status[0], 8), 0xff) or -sig
    return false
  end
  return true
end

--- Waits for its end.
---@param timeout? number seconds (10)
---@return integer? status exit status, or minus the signal; nil when it still runs
function Process:wait(timeout)
  local deadline = _M.now() + (timeout or 10)
  while self:alive() do
    if _M.now() >= deadline then
      return nil
    end
    _M.sleep(0.005)
  end
  return self.result
end

---@param sig? integer SIGTERM
---@return boolean
function Process:kill(sig)
  return not self.result and _M.kill(self.pid, sig or _M.SIGTERM)
end

--- Ends it: the signal, then SIGKILL when it does not go in time. Idempotent.
---@param sig? integer SIGTERM
---@param timeout? number seconds (10)
---@return integer status
function Process:stop(sig, timeout)
  if self:alive() then
    self:kill(sig)
    self:kill(_M.SIGCONT)
    if not self:wait(timeout) then
      self:kill(_M.SIGKILL)
      self:wait(10)
    end
  end
  return self.result
end

--- Runs a program to its end.
---@param opts table as for spawn, and `timeout` in seconds (60)
---@return integer? status exit status, minus the signal, or nil after a timeout (it is killed then)
---@return string output stdout and stderr
function _M.run(opts)
  local path = os.tmpname()
  opts.stdout, opts.stderr = path, path
  local process = _M.spawn(opts)
  local status = process:wait(opts.timeout or 60)
  if not status then
    process:kill(_M.SIGKILL)
    process:wait(10)
  end
  local output = _M.read_file(path) or ""
  os.remove(path)
  return status, output
end

--- Makes an empty folder under TMPDIR that everybody may enter.
---@return string path
function _M.temp_dir()
  local template = (os.getenv "TMPDIR" or "/tmp") .. "/gorge-spec-XXXXXX"
  local buffer = ffi.new("char[?]", #template + 1, template)
  assert(C.gorge_spec_mkdtemp(buffer) ~= nil, "mkdtemp failed")
  local path = ffi.string(buffer)
  assert(_M.run { "chmod", "755", path } == 0)
  return path
end

---@param path string a folder made by temp_dir
function _M.remove_dir(path)
  assert(path:match "/gorge%-spec%-%w+$", "not a temporary folder of ours: " .. path)
  _M.run { "rm", "-rf", path }
end

return _M
