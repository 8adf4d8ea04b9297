-- SPDX-License-Identifier: MIT
--- Free ports on the loopback interface.
local socket = require "socket"

local _M = {}

local given = {}

--- A port nobody listens on now; the same one is not given twice.
---@return integer
function _M.free_port()
  for _ = 1, 100 do
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    server:close()
    port = tonumber(port)
    if not given[port] then
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
