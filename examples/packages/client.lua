-- SPDX-License-Identifier: MIT
--- A small HTTP client for many keepalive connections at once, one request in
--- flight on each. It knows just what the demo's servers send.

local socket = require "socket"

local _M = {}

local SILENCE_SECONDS = 15 -- the longest wait for any answer at all

---@class demo.Connection
---@field node integer which of the ports this connection belongs to
---@class demo.Answer
---@field status integer
---@field source string|nil the X-Cache header
---@field worker string|nil the X-Worker header: which worker of which node
---@field body string
---@field seconds number from before the request was sent until the last byte came

--- Opens `count` connections, spread evenly over the ports.
---@param ports integer[]
---@param count integer
---@return demo.Connection[]
function _M.open(ports, count)
  local connections = {}
  for i = 1, count do
    local node = (i - 1) % #ports + 1
    local sock = assert(socket.connect("127.0.0.1", ports[node]))
    sock:setoption("tcp-nodelay", true)
    sock:settimeout(0)
    connections[i] = { node = node, sock = sock, buffer = "" }
  end
  return connections
end

---@param connections demo.Connection[]
function _M.close(connections)
  for _, connection in ipairs(connections) do
    connection.sock:close()
  end
end

local function send(connection, method, path)
  connection.path = path
  connection.sent_at = socket.gettime()
  local request = method .. " " .. path .. " HTTP/1.1\r\nHost: demo\r\n\r\n"
  local sent, err = connection.sock:send(request)
  if sent ~= #request then
    error("cannot send a request: " .. tostring(err), 0)
  end
end

--- The answer, once all of it has arrived.
local function receive(connection)
  local data, err, part = connection.sock:receive(65536)
  connection.buffer = connection.buffer .. (data or part)
  if err == "closed" then
    error("the server closed the connection on " .. connection.path, 0)
  end
  local buffer = connection.buffer
  local _, head_end = buffer:find("\r\n\r\n", 1, true)
  local length = head_end and tonumber(buffer:match("\r\nContent%-Length: (%d+)"))
  if not length or #buffer < head_end + length then
    return nil
  end
  connection.buffer = ""
  return {
    status = tonumber(buffer:sub(10, 12)),
    source = buffer:match("\r\nX%-Cache: (%w+)"),
    worker = buffer:match("\r\nX%-Worker: (%w+)"),
    body = buffer:sub(head_end + 1),
    seconds = socket.gettime() - connection.sent_at,
  }
end

--- Keeps every connection busy until `next_path` has no more to ask and all
--- answers are in.
---@param connections demo.Connection[]
---@param next_path fun(connection: demo.Connection): string|nil
---@param on_answer fun(answer: demo.Answer, connection: demo.Connection)
function _M.run(connections, next_path, on_answer)
  local busy, owner = {}, {}
  local function ask(connection)
    local path = next_path(connection)
    if path then
      send(connection, "GET", path)
    end
    return path
  end
  for _, connection in ipairs(connections) do
    owner[connection.sock] = connection
    if ask(connection) then
      busy[#busy + 1] = connection.sock
    end
  end
  while #busy > 0 do
    local ready = socket.select(busy, nil, SILENCE_SECONDS)
    if #ready == 0 then
      error(("no answer to %d requests within %d s"):format(#busy, SILENCE_SECONDS), 0)
    end
    for _, sock in ipairs(ready) do
      local connection = owner[sock]
      local answer = receive(connection)
      if answer then
        on_answer(answer, connection)
        if not ask(connection) then
          for i, other in ipairs(busy) do
            if other == sock then
              table.remove(busy, i)
              break
            end
          end
        end
      end
    end
  end
end

--- One request on one connection.
---@param connection demo.Connection
---@param path string
---@param method? string default: "GET"
---@return demo.Answer
function _M.request(connection, path, method)
  send(connection, method or "GET", path)
  local deadline = socket.gettime() + SILENCE_SECONDS
  repeat
    socket.select({ connection.sock }, nil, 1)
    local answer = receive(connection)
    if answer then
      return answer
    end
  until socket.gettime() > deadline
  error("no answer to " .. path, 0)
end

return _M
