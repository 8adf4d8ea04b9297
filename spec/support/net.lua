-- SPDX-License-Identifier: MIT
--- Free ports on the loopback interface: of those that the kernel gives to nobody by itself, so that no client of a spec that runs at the same time
--- takes one in the moment before a server listens there.
local ffi = require "ffi"
local socket = require "socket"

ffi.cdef [[
struct gorge_spec_unix { unsigned short family; char path[108]; };
int gorge_spec_socket(int domain, int type, int protocol) __asm__("socket");
int gorge_spec_bind(int fd, const struct gorge_spec_unix *address, unsigned len) __asm__("bind");
int gorge_spec_close(int fd) __asm__("close");
]]
local C = ffi.C

local AF_UNIX, SOCK_DGRAM, SOCK_CLOEXEC = 1, 2, 0x80000
local FIRST, LAST = 10000, 32767

local _M = {}

local given = {}

-- Any of them: neighbours would meet those of another process that counts up.
local function any_port()
  local file = assert(io.open("/dev/urandom", "rb"))
  local a, b = file:read(2):byte(1, 2)
  file:close()
  return FIRST + (a * 256 + b) % (LAST - FIRST + 1)
end

--- Whether this process gets the port, until it ends. A port is free until the server listens or while it is down, and nginx's with reuseport always: two
--- specs that met there would answer one another. A name that only one process can have keeps them apart.
---@param port integer
---@return boolean
function _M.reserve(port)
  local name = "\0gorge-spec-port-" .. port
  local fd = C.gorge_spec_socket(AF_UNIX, SOCK_DGRAM + SOCK_CLOEXEC, 0)
  assert(fd >= 0, "no socket")
  local address = ffi.new("struct gorge_spec_unix", AF_UNIX)
  ffi.copy(address.path, name, #name)
  if C.gorge_spec_bind(fd, address, 2 + #name) ~= 0 then
    C.gorge_spec_close(fd)
    return false
  end
  return true
end

--- A port nobody listens on now; the same one is not given twice.
---@return integer
function _M.free_port()
  for _ = 1, 1000 do
    local port = any_port()
    local server = not given[port] and _M.reserve(port) and socket.bind("127.0.0.1", port)
    if server then
      server:close()
      given[port] = true
      return port
    end
  end
  error("no free port found")
end

--- Whether something accepts connections there.
---@param port integer
---@return boolean
function _M.is_open(port)
  local sock = assert(socket.tcp4())
  sock:settimeout(1)
  local ok = sock:connect("127.0.0.1", port)
  sock:close()
  return ok ~= nil
end

return _M
