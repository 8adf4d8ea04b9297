-- SPDX-License-Identifier: MIT
--- A real redis-server of the test's own, on a unix socket and a free port, without persistence.
local socket = require "socket"
local process = require "spec.support.process"
local net = require "spec.support.net"

local SERVER = os.getenv "REDIS_SERVER" or "redis-server" -- another that speaks its protocol, such as valkey-server

local _M = { SERVER = SERVER }

---@class gorge.spec.Redis
---@field port integer
---@field unix string path of its socket
---@field tls_port integer|nil
---@field url string redis://127.0.0.1:PORT/0, with the password when there is one
---@field unix_url string unix:///PATH
---@field pid integer
---@field dir string its folder; the log is redis.log in it
---@field paused boolean|nil
---@field on_leave fun()|nil called before it is paused or killed
local Redis = {}
Redis.__index = Redis

local function read_reply(sock)
  local line, err = sock:receive "*l"
  if not line then
    return nil, "redis: " .. err
  end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == "+" then
    return rest
  elseif kind == "-" then
    return nil, rest
  elseif kind == ":" then
    return tonumber(rest)
  elseif kind == "$" then
    local len = tonumber(rest)
    if len < 0 then
      return nil
    end
    local data = assert(sock:receive(len + 2))
    return data:sub(1, len)
  elseif kind == "*" then
    local items = {}
    for i = 1, tonumber(rest) do
      local item, item_err = read_reply(sock)
      items[i] = item == nil and { err = item_err } or item
    end
    return items
  end
  error("redis: unexpected reply " .. line)
end

local function send_command(sock, ...)
  local parts = { "*" .. select("#", ...) .. "\r\n" }
  for i = 1, select("#", ...) do
    local arg = tostring((select(i, ...)))
    parts[#parts + 1] = "$" .. #arg .. "\r\n" .. arg .. "\r\n"
  end
  return sock:send(table.concat(parts))
end

--- Starts a server and waits until it answers.
--- config: further lines of redis.conf; tls: what it shows, and whose clients it takes (`clients` = "yes": those with a
--- certificate of that CA).
---@param opts? { port?: integer, password?: string, config?: string, tls?: { cert: string, key: string, ca: string, clients?: "yes"|"no" } }
---@return gorge.spec.Redis
function _M.start(opts)
  opts = opts or {}
  local self = setmetatable({ opts = opts, dir = process.temp_dir() }, Redis)
  self.port = opts.port or net.free_port()
  self.tls_port = opts.tls and net.free_port() or nil
  self.unix = self.dir .. "/redis.sock"
  local auth = opts.password and ":" .. opts.password .. "@" or ""
  self.url = ("redis://%s127.0.0.1:%d/0"):format(auth, self.port)
  self.unix_url = "unix://" .. self.unix
  self:configure()
  self:up()
  return self
end

--- Lines of a configuration.
function _M.tls_lines(tls, port)
  return ("tls-port %d\ntls-cert-file %s\ntls-key-file %s\ntls-ca-cert-file %s\ntls-auth-clients %s"):format(port, tls.cert,
    tls.key, tls.ca, tls.clients or "no")
end

--- Writes the configuration that `up` starts it with, from `opts` as they are now.
function Redis:configure()
  local opts = self.opts
  process.write_file(self.dir .. "/redis.conf", table.concat({
    "bind 127.0.0.1",
    "port " .. self.port,
    "unixsocket " .. self.unix,
    "unixsocketperm 777",
    "dir " .. self.dir,
    "logfile " .. self.dir .. "/redis.log",
    "daemonize no",
    'save ""',
    "appendonly no",
    opts.password and "requirepass " .. opts.password or "",
    opts.tls and _M.tls_lines(opts.tls, self.tls_port) or "",
    opts.config or "",
  }, "\n") .. "\n")
end

--- Starts it again after kill or down, on the same port and socket, and does not wait until it answers.
function Redis:launch()
  assert(not self.process or not self.process:alive(), "redis runs already")
  self.process = process.spawn { SERVER, self.dir .. "/redis.conf", stdout = self.dir .. "/stdout" }
  self.paused = nil
  self.pid = self.process.pid
end

--- Starts it again after kill or down, on the same port and socket, empty.
function Redis:up()
  self:launch()
  process.wait_until(function()
    if not self.process:alive() then
      error("redis-server ended: " .. (process.read_file(self.dir .. "/redis.log") or "no log"))
    end
    return self:command "PING" == "PONG"
  end, { message = "redis-server did not answer" })
  return self
end

--- Runs a command on a connection of its own.
---@return any reply string, number, table, or nil (and a message when it is an error)
---@return string? err
function Redis:command(...)
  local sock = require "socket.unix"()
  sock:settimeout(5)
  local ok, err = sock:connect(self.unix)
  if not ok then
    sock:close()
    return nil, err
  end
  if self.opts.password then
    send_command(sock, "AUTH", self.opts.password)
    read_reply(sock)
  end
  send_command(sock, ...)
  local reply, reply_err = read_reply(sock)
  sock:close()
  return reply, reply_err
end

--- Runs a command on a server that listens on a port of 127.0.0.1.
---@param port integer
---@param password string|nil
---@return any reply
---@return string? err
function _M.ask(port, password, ...)
  local sock = assert(socket.tcp4())
  sock:settimeout(5)
  local ok, err = sock:connect("127.0.0.1", port)
  if not ok then
    sock:close()
    return nil, err
  end
  if password then
    send_command(sock, "AUTH", password)
    read_reply(sock)
  end
  send_command(sock, ...)
  local reply, reply_err = read_reply(sock)
  sock:close()
  return reply, reply_err
end

--- How many clients are connected, without the one that asks.
---@return integer
function Redis:clients()
  local info = assert(self:command("INFO", "clients"))
  return tonumber(info:match "connected_clients:(%d+)") - 1
end

local function leave(self)
  if self.on_leave then
    self.on_leave()
  end
end

--- Stops the process from running without closing anything: a server that hangs.
function Redis:pause()
  leave(self)
  self.process:kill(process.SIGSTOP)
  self.paused = true
end

function Redis:resume()
  self.process:kill(process.SIGCONT)
  self.paused = nil
end

--- SIGKILL: gone in the middle of everything. `up` brings an empty one back.
function Redis:kill()
  leave(self)
  self.process:stop(process.SIGKILL)
end

--- SIGTERM: an orderly end. `up` brings an empty one back.
function Redis:down()
  self.process:stop(process.SIGTERM)
end

---@return string
function Redis:log()
  return process.read_file(self.dir .. "/redis.log") or ""
end

--- Ends the server and removes its folder. Idempotent.
function Redis:stop()
  if self.dir then
    self.process:stop(process.SIGKILL)
    process.remove_dir(self.dir)
    self.dir = nil
  end
end

--- A plain connection for what `command` cannot do: subscriptions, several commands in a row.
---@return { send: fun(...), read: fun(): any, close: fun() }
function Redis:connect()
  local sock = assert(socket.tcp4())
  sock:settimeout(5)
  assert(sock:connect("127.0.0.1", self.port))
  if self.opts.password then
    send_command(sock, "AUTH", self.opts.password)
    read_reply(sock)
  end
  return {
    send = function(...) return send_command(sock, ...) end,
    read = function() return read_reply(sock) end,
    close = function() sock:close() end,
  }
end

return _M
