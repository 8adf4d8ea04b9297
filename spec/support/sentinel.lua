-- SPDX-License-Identifier: MIT
--- A real master with replicas, and real sentinels that watch them, all of the test's own.
local net = require "spec.support.net"
local process = require "spec.support.process"
local redis = require "spec.support.redis"

local _M = {}

---@class gorge.spec.Replicated
---@field name string that the sentinels know the master by
---@field servers gorge.spec.Redis[] the first one is the master at the start
---@field sentinels gorge.spec.Sentinel[]
local Replicated = {}
Replicated.__index = Replicated

---@class gorge.spec.Sentinel
---@field port integer
---@field tls_port integer|nil
---@field paused boolean|nil
local Sentinel = {}
Sentinel.__index = Sentinel

-- So long must a server stand still to count as dead by itself: longer than a busy machine ever makes it.
local PATIENCE_MS = 60000

local function lines(list)
  return table.concat(list, "\n") .. "\n"
end

local function start_sentinel(name, master_port, opts)
  local self = setmetatable({ dir = process.temp_dir(), name = name, port = net.free_port(), password = opts.sentinel_password,
    master_password = opts.password }, Sentinel)
  self.tls_port = opts.tls and net.free_port() or nil
  self.config = lines {
    "bind 127.0.0.1", "port " .. self.port, "dir " .. self.dir, "logfile " .. self.dir .. "/redis.log", "daemonize no",
    opts.tls and redis.tls_lines(opts.tls, self.tls_port) or "",
    opts.tls and "tls-replication yes" or "",
    opts.sentinel_password and "requirepass " .. opts.sentinel_password or "",
    opts.sentinel_password and "sentinel sentinel-pass " .. opts.sentinel_password or "",
    ("sentinel monitor %s 127.0.0.1 %d %d"):format(name, master_port, opts.quorum or 2),
    ("sentinel down-after-milliseconds %s %d"):format(name, PATIENCE_MS),
    ("sentinel failover-timeout %s %d"):format(name, opts.failover_timeout_ms or 3000),
    opts.password and ("sentinel auth-pass %s %s"):format(name, opts.password) or "",
  }
  process.write_file(self.dir .. "/sentinel.conf", self.config)
  self:up()
  return self
end

function Sentinel:up()
  self.process = process.spawn { redis.SERVER, self.dir .. "/sentinel.conf", "--sentinel", stdout = self.dir .. "/stdout" }
  process.wait_until(function()
    if not self.process:alive() then
      error("the sentinel ended: " .. self:log())
    end
    return self:command "PING" == "PONG"
  end, { message = "the sentinel did not answer" })
end

---@return any reply
---@return string? err
function Sentinel:command(...)
  local reply, err = redis.ask(self.port, self.password, ...)
  return reply, err
end

---@return string
function Sentinel:log()
  return process.read_file(self.dir .. "/redis.log") or ""
end

function Sentinel:kill()
  self.process:stop(process.SIGKILL)
end

function Sentinel:pause()
  self.process:kill(process.SIGSTOP)
  self.paused = true
end

function Sentinel:resume()
  self.process:kill(process.SIGCONT)
  self.paused = nil
end

--- Forgets what it has learned, and begins with a master that its companions have left, without ever hearing of it: they may not publish here, and the
--- master, which has to have a password, does not let it in to hear them there.
---@param master_port integer
function Sentinel:cut_off(master_port)
  self:kill()
  process.write_file(self.dir .. "/sentinel.conf", (self.config:gsub("(sentinel monitor %S+ %S+) %d+", "%1 " .. master_port)) .. lines {
    ("sentinel auth-pass %s not-%s"):format(self.name, self.master_password),
    ("user default on %s ~* &* +@all -publish"):format(self.password and ">" .. self.password or "nopass"),
  })
  self:up()
end

function Sentinel:stop()
  if self.dir then
    self.process:stop(process.SIGKILL)
    process.remove_dir(self.dir)
    self.dir = nil
  end
end

--- Starts them and waits until every sentinel knows every replica and every other sentinel.
--- opts: password, sentinel_password, replicas (2), sentinels (3), quorum (2), tls as for redis.start; down_after_ms (500): how long a server does not
--- answer before it counts as dead, from when the first one is killed or paused.
---@param opts? table
---@return gorge.spec.Replicated
function _M.start(opts)
  opts = opts or {}
  local self = setmetatable({ name = "main", servers = {}, sentinels = {}, down_after_ms = opts.down_after_ms or 500 }, Replicated)
  local replicas, sentinels = opts.replicas or 2, opts.sentinels or 3
  local common = lines {
    "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
    opts.password and "masterauth " .. opts.password or "",
    opts.tls and "tls-replication yes" or "",
  }
  self.servers[1] = redis.start { password = opts.password, config = common, tls = opts.tls }
  for i = 1, replicas do
    self.servers[i + 1] = redis.start { password = opts.password, tls = opts.tls,
      config = common .. "replicaof 127.0.0.1 " .. (self.servers[1].tls_port or self.servers[1].port) }
  end
  process.wait_until(function()
    local _, online = assert(self.servers[1]:command("INFO", "replication")):gsub("state=online", "")
    return online == replicas
  end, { message = "the replicas did not follow" })
  self:catch_up(self.servers[1], replicas)
  for i = 1, sentinels do
    self.sentinels[i] = start_sentinel(self.name, self.servers[1].tls_port or self.servers[1].port, opts)
  end
  process.wait_until(function() return self:settled(sentinels - 1, replicas) end,
    { timeout = 20, interval = 0.05, message = "the sentinels did not find one another" })
  for _, server in ipairs(self.servers) do
    server.on_leave = function() self:become_impatient() end
  end
  return self
end

local function fields(reply)
  local out = {}
  for i = 1, #reply, 2 do
    out[reply[i]] = reply[i + 1]
  end
  return out
end

--- Whether a sentinel has asked every replica, and found it good: it promotes no other.
local function knows_replicas(sentinel, name)
  local reply = sentinel:command("SENTINEL", "REPLICAS", name)
  for _, replica in ipairs(type(reply) == "table" and reply or {}) do
    local state = fields(replica)
    if state.flags ~= "slave" or state["master-link-status"] ~= "ok" then
      return false
    end
  end
  return type(reply) == "table"
end

---@return boolean whether each sentinel knows so many others and so many replicas, which are good
function Replicated:settled(others, replicas)
  for _, sentinel in ipairs(self.sentinels) do
    local reply = sentinel:command("SENTINEL", "MASTER", self.name)
    local state = type(reply) == "table" and fields(reply) or {}
    local known = tonumber(state["num-other-sentinels"]) == others and tonumber(state["num-slaves"]) == replicas
    if not known or state.flags ~= "master" or not knows_replicas(sentinel, self.name) then
      return false
    end
  end
  return true
end

--- Lets the sentinels take a server for dead soon.
function Replicated:become_impatient()
  for _, sentinel in ipairs(self.sentinels) do
    if sentinel.process:alive() and not sentinel.paused then
      assert(sentinel:command("SENTINEL", "SET", self.name, "down-after-milliseconds", self.down_after_ms))
    end
  end
end

--- Where the sentinels send clients.
---@return integer|nil port
function Replicated:master_port()
  for _, sentinel in ipairs(self.sentinels) do
    local reply = sentinel:command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
    if type(reply) == "table" then
      return tonumber(reply[2])
    end
  end
end

---@return gorge.spec.Redis
function Replicated:server_at(port)
  for _, server in ipairs(self.servers) do
    if server.port == port or server.tls_port == port then
      return server
    end
  end
  error("no server of ours has the port " .. tostring(port))
end

--- Waits until the replicas have all that the master has taken so far.
---@param master gorge.spec.Redis
---@param replicas? integer 2
function Replicated:catch_up(master, replicas)
  replicas = replicas or 2
  local connection = master:connect()
  connection.send("PUBLISH", "gorge-spec", "mark") -- WAIT is about what this connection has written
  connection.read()
  connection.send("WAIT", replicas, 4000)
  local reached = connection.read()
  connection.close()
  assert(reached == replicas, ("%s of %d replicas caught up"):format(reached, replicas))
end

--- Addresses of the sentinels, as the option takes them.
---@return string[]
function Replicated:addresses()
  local list = {}
  for i, sentinel in ipairs(self.sentinels) do
    list[i] = "127.0.0.1:" .. (sentinel.tls_port or sentinel.port)
  end
  return list
end

--- Waits until another server than `old` is the master, and takes writes.
---@param old gorge.spec.Redis
---@return gorge.spec.Redis
function Replicated:wait_promoted(old)
  return process.wait_until(function()
    local port = self:master_port()
    local server = port and port ~= old.port and port ~= old.tls_port and self:server_at(port)
    local role = server and server:command "ROLE"
    return type(role) == "table" and role[1] == "master" and server
  end, { timeout = 20, interval = 0.02, message = "no other server was promoted" })
end

function Replicated:stop()
  for _, sentinel in ipairs(self.sentinels) do
    sentinel:stop()
  end
  for _, server in ipairs(self.servers) do
    server:stop()
  end
end

return _M
