-- SPDX-License-Identifier: MIT
--- Free ports on the loopback interface: of those that the kernel gives to nobody by itself, so that no client of a spec that runs at the same time
--- takes one in the moment before a server listens there.
local socket = require "socket"

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

--- A port nobody listens on now; the same one is not given twice.
---@return integer
function _M.free_port()
  for _ = 1, 1000 do
    local port = any_port()
    local server = not given[port] and socket.bind("127.0.0.1", port)
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
