-- SPDX-License-Identifier: MIT
--- An HTTP/1.1 client for tests: any number of requests at once from one thread, over TCP or unix sockets.
---
--- A request is a table: `port` (on 127.0.0.1) or `unix` (path of a socket), `uri` ("/"), `method` ("GET"),
--- `headers`, `body`. A response is `{ status =, headers = (lower-case names), body =, time = seconds }`;
--- a failure is `{ err = }` with no status.
local ffi = require "ffi"
local socket = require "socket"
local process = require "spec.support.process"

ffi.cdef [[
struct gorge_spec_pollfd { int fd; short events; short revents; };
]]
local POLLIN, POLLOUT = 1, 4

local _M = {}

local function parse_head(state)
  local head_end, body_start = state.data:find("\r\n\r\n", 1, true)
  if not head_end then
    return false
  end
  local head = state.data:sub(1, head_end - 1)
  local response = { status = tonumber(head:match "^HTTP/1%.[01] (%d%d%d)"), headers = {} }
  if not response.status then
    state.err = "malformed status line"
    return true
  end
  for name, value in head:gmatch "\r\n([^:\r\n]+):[ \t]*([^\r\n]*)" do
    response.headers[name:lower()] = value
  end
  state.response = response
  state.data = state.data:sub(body_start + 1)
  return true
end

-- Returns the body once all chunks are there.
local function parse_chunks(data)
  local parts, at = {}, 1
  while true do
    local line_end, next_at = data:find("\r\n", at, true)
    if not line_end then
      return nil
    end
    local size = tonumber(data:sub(at, line_end - 1):match "^%x+" or "", 16)
    if not size then
      return nil, "malformed chunk"
    end
    if size == 0 then
      return data:find("\r\n", next_at + 1, true) and table.concat(parts) or nil
    end
    if #data < next_at + size + 2 then
      return nil
    end
    parts[#parts + 1] = data:sub(next_at + 1, next_at + size)
    at = next_at + size + 3
  end
end

-- Looks at what has arrived. Returns true when the response is complete or will never be.
local function advance(state, eof)
  if not state.response then
    if not parse_head(state) then
      state.err = eof and (state.data == "" and "closed without a response" or "closed in the headers") or nil
      return eof
    end
    if state.err then
      return true
    end
  end
  local response = state.response
  local length = tonumber(response.headers["content-length"])
  if state.method == "HEAD" or response.status == 204 or response.status == 304 then
    response.body = ""
  elseif response.headers["transfer-encoding"] == "chunked" then
    response.body, state.err = parse_chunks(state.data)
  elseif length then
    response.body = #state.data >= length and state.data:sub(1, length) or nil
  elseif eof then
    response.body = state.data
  end
  if not response.body and eof then
    state.err = state.err or "closed in the body"
  end
  return response.body ~= nil or state.err ~= nil
end

local function encode(request, keepalive)
  local body = request.body or ""
  local lines = { ("%s %s HTTP/1.1"):format(request.method or "GET", request.uri or "/") }
  local headers = { Host = "localhost", Connection = keepalive and "keep-alive" or "close" }
  if body ~= "" or request.method == "POST" or request.method == "PUT" then
    headers["Content-Length"] = #body
  end
  for name, value in pairs(request.headers or {}) do
    headers[name] = value
  end
  for name, value in pairs(headers) do
    lines[#lines + 1] = name .. ": " .. value
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body
end

local function open_socket(state)
  local request = state.request
  local sock, ok, err
  if request.unix then
    sock = require "socket.unix"()
    sock:settimeout(0)
    ok, err = sock:connect(request.unix)
  else
    sock = assert(socket.tcp4())
    sock:settimeout(0)
    ok, err = sock:connect(request.host or "127.0.0.1", assert(request.port, "a request needs a port or a unix path"))
  end
  if ok or err == "timeout" or err == "Operation already in progress" then
    state.sock, state.fd = sock, sock:getfd()
    return
  end
  sock:close()
  -- A unix socket whose backlog is full refuses at once instead of waiting: try again in the next round.
  if err ~= "Resource temporarily unavailable" then
    state.err = "connect: " .. tostring(err)
  end
end

local function finish(state)
  state.done = true
  if state.sock and not state.keep then
    state.sock:close()
    state.sock = nil
  end
  if state.err then
    state.response = { err = state.err }
  end
  state.response.time = process.now() - state.started
end

local function new_state(request, sock)
  return {
    request = request,
    method = request.method or "GET",
    out = encode(request, sock ~= nil),
    sent = 0,
    data = "",
    started = process.now(),
    sock = sock,
    fd = sock and sock:getfd(),
    keep = sock ~= nil,
  }
end

local function on_writable(state)
  local last, err, partial = state.sock:send(state.out, state.sent + 1)
  state.sent = last or partial or state.sent
  -- A server may answer and close before it has read everything: what it said counts.
  if err and err ~= "timeout" then
    if state.sent == 0 then
      state.err = "send: " .. err
      finish(state)
    else
      state.sent = #state.out
    end
  end
end

local function on_readable(state)
  while not state.done do
    local data, err, partial = state.sock:receive(65536)
    local got = data or partial
    if got and got ~= "" then
      state.data = state.data .. got
    end
    local eof = err ~= nil and err ~= "timeout"
    if advance(state, eof) then
      finish(state)
    elseif err then
      return
    end
  end
end

local function start_pending(states)
  local pending = 0
  for _, state in ipairs(states) do
    if not state.done then
      if not state.sock then
        open_socket(state)
        if state.err then
          finish(state)
        end
      end
      pending = pending + (state.done and 0 or 1)
    end
  end
  return pending
end

-- One round: waits up to `timeout` seconds and moves what can be moved. Returns how many are not done.
local function step(states, timeout)
  local pending = start_pending(states)
  local fds = ffi.new("struct gorge_spec_pollfd[?]", pending + 1)
  local polled = {}
  for _, state in ipairs(states) do
    if not state.done and state.sock then
      local entry = fds[#polled]
      entry.fd = state.fd
      entry.events = state.sent < #state.out and POLLOUT + POLLIN or POLLIN
      polled[#polled + 1] = state
    end
  end
  local wait = #polled < pending and math.min(timeout, 0.005) or timeout
  if pending == 0 or ffi.C.gorge_spec_poll(fds, #polled, math.ceil(wait * 1000)) <= 0 then
    return pending
  end
  for i, state in ipairs(polled) do
    local revents = fds[i - 1].revents
    if revents ~= 0 then
      if state.sent < #state.out and bit.band(revents, POLLOUT) ~= 0 then
        on_writable(state)
      end
      if not state.done and bit.band(revents, bit.bnot(POLLOUT)) ~= 0 then
        on_readable(state)
      end
      pending = pending - (state.done and 1 or 0)
    end
  end
  return pending
end

---@class gorge.spec.Batch
local Batch = {}
Batch.__index = Batch

--- Sends requests without waiting for the answers: returns when all are written to their sockets (or failed).
---@param requests table[]
---@param timeout? number seconds (10)
---@return gorge.spec.Batch
function _M.start(requests, timeout)
  local states = {}
  for i, request in ipairs(requests) do
    states[i] = new_state(request)
  end
  local deadline = process.now() + (timeout or 10)
  local function unsent()
    for _, state in ipairs(states) do
      if not state.done and (not state.sock or state.sent < #state.out) then
        return true
      end
    end
  end
  while unsent() do
    if process.now() >= deadline then
      error("requests could not be sent in time", 2)
    end
    step(states, 0.05)
  end
  return setmetatable({ states = states }, Batch)
end

--- How many answers have arrived so far.
---@return integer
function Batch:done()
  step(self.states, 0)
  local count = 0
  for _, state in ipairs(self.states) do
    count = count + (state.done and 1 or 0)
  end
  return count
end

--- Waits for all answers. What has not come by then is `{ err = "timeout" }`.
---@param timeout? number seconds (30)
---@return table[] responses in the order of the requests
function Batch:finish(timeout)
  local deadline = process.now() + (timeout or 30)
  while step(self.states, math.max(0, math.min(1, deadline - process.now()))) > 0 and process.now() < deadline do
    -- step does the work
  end
  local responses = {}
  for i, state in ipairs(self.states) do
    if not state.done then
      state.err = "timeout"
      finish(state)
    end
    responses[i] = state.response
  end
  return responses
end

--- Closes all connections, as a client does that has gone away.
function Batch:close()
  for _, state in ipairs(self.states) do
    if not state.done then
      state.err = "aborted"
      finish(state)
    end
  end
end

--- All requests at once; returns all responses in their order.
---@param requests table[]
---@param timeout? number seconds (30)
---@return table[]
function _M.many(requests, timeout)
  return _M.start(requests, timeout):finish(timeout)
end

--- One request.
---@param request table and `timeout` in seconds (30)
---@return table response with status, headers, body, time; or with err
function _M.request(request)
  return _M.many({ request }, request.timeout)[1]
end

--- Keeps `concurrency` requests in flight until `tick` returns true.
---@param opts { request: fun(i: integer): table, concurrency?: integer, tick: fun(count: integer): boolean?, timeout?: number }
--- `tick` is called after each round (at least every 20 ms) with the number of finished requests; it must not block for long
---@return table[] responses, in the order in which they finished
function _M.load(opts)
  local deadline = process.now() + (opts.timeout or 30)
  local states, responses, issued, stopping = {}, {}, 0, false
  while true do
    local kept = {}
    for _, state in ipairs(states) do
      if state.done then
        responses[#responses + 1] = state.response
      else
        kept[#kept + 1] = state
      end
    end
    states = kept
    stopping = stopping or opts.tick(#responses) == true or process.now() >= deadline
    while not stopping and #states < (opts.concurrency or 10) do
      issued = issued + 1
      states[#states + 1] = new_state(opts.request(issued))
    end
    if stopping and (#states == 0 or process.now() >= deadline + 10) then
      break
    end
    step(states, 0.02)
  end
  for _, state in ipairs(states) do
    state.err = "timeout"
    finish(state)
    responses[#responses + 1] = state.response
  end
  return responses
end

---@class gorge.spec.Connection
local Connection = {}
Connection.__index = Connection

--- Opens a connection that stays open: all its requests reach the same worker.
---@param target { port?: integer, unix?: string, host?: string }
---@param timeout? number seconds (10)
---@return gorge.spec.Connection
function _M.connect(target, timeout)
  local sock
  if target.unix then
    sock = require "socket.unix"()
    sock:settimeout(timeout or 10)
    assert(sock:connect(target.unix))
  else
    sock = assert(socket.tcp4())
    sock:settimeout(timeout or 10)
    assert(sock:connect(target.host or "127.0.0.1", target.port))
  end
  sock:settimeout(0)
  return setmetatable({ sock = sock }, Connection)
end

--- The same request on several connections at once.
---@param connections gorge.spec.Connection[]
---@param request table and `timeout` in seconds (30)
---@return table[] responses in the order of the connections
function _M.on_each(connections, request)
  local states = {}
  for i, connection in ipairs(connections) do
    states[i] = new_state(request, connection.sock)
  end
  return setmetatable({ states = states }, Batch):finish(request.timeout)
end

---@param request table and `timeout` in seconds (30)
---@return table response
function Connection:request(request)
  return _M.on_each({ self }, request)[1]
end

---@param uri string
---@return table response
function Connection:get(uri)
  return self:request { uri = uri }
end

function Connection:close()
  self.sock:close()
end

return _M
