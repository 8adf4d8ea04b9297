-- SPDX-License-Identifier: MIT
--- The two nodes as the driver sees them: connections to all their workers, answers that
--- are checked, and what one node's DELETE does to both.

local socket = require "socket"
local client = require "client"

local _M = {
  A = 1,
  B = 2,
  connections = {}, ---@type demo.Connection[] to all workers of both nodes
  a = nil, ---@type demo.Connection one of those to node A
  b = nil, ---@type demo.Connection one of those to node B
}

local PORTS = { tonumber(os.getenv("PORT_A")), tonumber(os.getenv("PORT_B")) }
local WORKERS = { "A0", "B0", "A1", "B1" } -- as the header X-Worker names them
local PER_WORKER = 2
local CONNECT_LIMIT_SECONDS = 15 -- a worker that has just been started may need a moment
local SEEN_LIMIT_SECONDS = 6 -- with Redis in reach, the other node has forgotten by then

--- Ends the demo if something does not hold.
function _M.promise(kept, format, ...)
  if not kept then
    error(format:format(...), 0)
  end
end
local promise = _M.promise

--- Opens the connections. Which worker takes one is the kernel's choice, so this opens
--- more than it needs and keeps what fits.
function _M.connect()
  local kept, of = _M.connections, {}
  for _, worker in ipairs(WORKERS) do
    of[worker] = 0
  end
  local began = socket.gettime()
  repeat
    for _, connection in ipairs(client.open(PORTS, 50)) do
      local worker = client.request(connection, "/stats").worker
      if of[worker] < PER_WORKER then
        of[worker] = of[worker] + 1
        kept[#kept + 1] = connection
      else
        client.close { connection }
      end
    end
    if #kept == #WORKERS * PER_WORKER then
      for _, connection in ipairs(kept) do
        _M.a = connection.node == _M.A and connection or _M.a
        _M.b = connection.node == _M.B and connection or _M.b
      end
      return
    end
    socket.sleep(0.01)
  until socket.gettime() - began > CONNECT_LIMIT_SECONDS
  error("not every worker takes connections", 0)
end

--- A crowd of connections, each accepted by a worker already.
---@param size integer
---@return demo.Connection[]
function _M.crowd(size)
  local crowd = client.open(PORTS, size)
  for _, connection in ipairs(crowd) do
    client.request(connection, "/")
  end
  return crowd
end

--- An answer must be what was asked for.
function _M.check(answer, path)
  local name = path:match("/package/(.*)")
  local unknown = name and name:find("^no%-such%-package")
  promise(answer.status == (unknown and 404 or 200), "%s was answered with status %d: %s",
    path, answer.status, answer.body)
  promise(unknown or not name or answer.body:find(('"name":"%s"'):format(name), 1, true),
    "%s was answered with another package: %s", path, answer.body)
end

---@return demo.Answer
function _M.get(connection, path)
  local answer = client.request(connection, path)
  _M.check(answer, path)
  return answer
end

--- Deletes on node A.
---@return integer status 200, or 202 if node A could not tell the others
function _M.delete(path)
  local answer = client.request(_M.a, path, "DELETE")
  promise(answer.status == 200 or answer.status == 202, "DELETE %s was answered with status %d: %s",
    path, answer.status, answer.body)
  return answer.status
end

--- Each answer names the loader run that made it, so a fresh one is told from an old one.
function _M.loader_run(answer)
  return answer.body:match('"loader_run":"([^"]*)"')
end

--- How often the loader has run on both nodes.
function _M.loader_runs()
  local sum = 0
  for _, node in ipairs { _M.a, _M.b } do
    sum = sum + tonumber(client.request(node, "/stats").body:match('"loader_runs":(%d+)'))
  end
  return sum
end

--- Deletes on node A, then asks on all connections: node A must answer anew at once,
--- node B soon.
---@param path string what is deleted
---@param victim string what has to be forgotten with it
---@return number seconds from the answer to the DELETE until node B's last old answer, 0 if there was none
function _M.delete_and_watch(path, victim)
  local old = {}
  for _, connection in ipairs(_M.connections) do
    old[connection.node] = _M.loader_run(_M.get(connection, victim))
  end
  promise(_M.delete(path) == 200, "node A could not tell the others about DELETE %s", path)
  local acknowledged, done, last_old = socket.gettime(), {}, 0
  client.run(_M.connections, function(connection)
    return not done[connection] and victim or nil
  end, function(answer, connection)
    _M.check(answer, victim)
    if _M.loader_run(answer) ~= old[connection.node] then
      done[connection] = true
      return
    end
    last_old = socket.gettime() - acknowledged
    promise(connection.node == _M.B, "node A still had the old %s after DELETE had been answered", victim)
    promise(last_old < SEEN_LIMIT_SECONDS, "node B still had the old %s after %.1f s", victim, last_old)
  end)
  return last_old
end

return _M
