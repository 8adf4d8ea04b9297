-- SPDX-License-Identifier: MIT
--- The process behind spec/support/relay.lua: luajit relay_process.lua CONTROL_SOCKET TARGET_PORT PORT_FILE
---
--- One line on the control socket is one command, answered with "ok" or what is wrong:
---   target PORT            where connections made from now on go
---   CLASS MODE DIRECTION   see relay.lua; CLASS all, commands or pubsub; DIRECTION both, up or down
---   delay SECONDS          every byte arrives that much later, in each direction
---   truncate BYTES         a connection is closed after so many more bytes from Redis; heal ends it
---   garble                 what comes from Redis is made of other bytes; heal closes the connections that had some
---   count                  answers with the number of open connections
local socket = require "socket"
local clock = require("spec.support.process").now -- that of the machine may be set

local CONTROL, TARGET, PORT_FILE = arg[1], tonumber(arg[2]), arg[3]
local CHUNK, QUEUE_MAX, SNIFF = 65536, 1048576, 1024
local MODES = { pass = true, stall = true, black_hole = true, cut = true }

local delay = 0
local truncate -- bytes, or nil
local garble = false
local modes = {
  commands = { up = "pass", down = "pass" },
  pubsub = { up = "pass", down = "pass" },
}
local connections = {}

local function pipe(name, from, to)
  return { name = name, from = from, to = to, first = 1, last = 0, bytes = 0 }
end

local function close(c)
  connections[c] = nil
  c.client:close()
  c.server:close()
end

local function mode_of(c, p)
  return modes[c.class][p.name]
end

local function accept(listener)
  local client = listener:accept()
  if not client then
    return
  elseif modes.commands.up == "cut" then -- what a connection is for shows later
    client:close()
    return
  end
  local server = socket.connect("127.0.0.1", TARGET)
  if not server then
    client:close()
    return
  end
  for _, sock in ipairs { client, server } do
    sock:settimeout(0)
    sock:setoption("tcp-nodelay", true)
  end
  local c = { client = client, server = server, class = "commands", sniffed = "" }
  c.pipes = { pipe("up", client, server), pipe("down", server, client) }
  connections[c] = true
end

-- A connection that subscribes is one for messages.
local function classify(c, data)
  if c.class == "commands" and #c.sniffed < SNIFF then
    c.sniffed = c.sniffed .. data:sub(1, SNIFF)
    if c.sniffed:lower():find("\nsubscribe\r", 1, true) then
      c.class = "pubsub"
      if modes.pubsub.up == "cut" then
        close(c)
      end
    end
  end
end

-- What becomes of bytes that come from Redis.
local function spoil(c, data)
  if garble then
    c.holed = true
    data = data:gsub(".", function(byte) return string.char((byte:byte() * 167 + 41) % 256) end)
  end
  if truncate and c.class == "commands" then
    local left = (c.left or truncate) - #data
    c.left = left
    if left <= 0 then
      c.client:send(data:sub(1, #data + left))
      close(c)
    end
  end
  return data
end

local function receive(c, p)
  local data, err, partial = p.from:receive(CHUNK)
  data = data or partial
  if data ~= "" and p.name == "down" then
    data = spoil(c, data)
  end
  if data ~= "" and connections[c] then
    if p.name == "up" then
      classify(c, data)
    end
    if connections[c] and mode_of(c, p) == "black_hole" then
      c.holed = true
    else
      p.last = p.last + 1
      p[p.last] = { data = data, at = 1, due = clock() + delay }
      p.bytes = p.bytes + #data
    end
  end
  if err == "closed" and connections[c] then
    close(c)
  end
end

local function send(c, p, now)
  while p.first <= p.last and p[p.first].due <= now do
    local chunk = p[p.first]
    local last, err, partial = p.to:send(chunk.data, chunk.at)
    last = last or partial
    if err and err ~= "timeout" then
      close(c)
      return
    elseif last < #chunk.data then
      chunk.at = last + 1
      return
    end
    p[p.first] = nil
    p.first = p.first + 1
    p.bytes = p.bytes - #chunk.data
  end
end

local function apply()
  for c in pairs(connections) do
    c.left = nil
    local up, down = modes[c.class].up, modes[c.class].down
    if up == "cut" or (c.holed and up == "pass" and down == "pass") then
      close(c) -- bytes are missing: nobody can go on with it
    end
  end
end

local function set_mode(class, mode, direction)
  if not MODES[mode] or not (direction == "both" or direction == "up" or direction == "down") then
    return "no such mode: " .. mode .. " " .. direction
  end
  for _, name in ipairs(class == "all" and { "commands", "pubsub" } or { class }) do
    for _, way in ipairs { "up", "down" } do
      modes[name][way] = (direction == "both" or direction == way) and mode or "pass"
    end
  end
  apply()
  return "ok"
end

local function command(line)
  local word, rest = line:match "^(%S+)%s*(.*)$"
  if word == "target" and tonumber(rest) then
    TARGET = tonumber(rest)
    return "ok"
  elseif word == "delay" and tonumber(rest) then
    delay = tonumber(rest)
    return "ok"
  elseif word == "count" then
    local n = 0
    for _ in pairs(connections) do
      n = n + 1
    end
    return tostring(n)
  elseif word == "truncate" and tonumber(rest) then
    truncate = tonumber(rest)
    apply()
    return "ok"
  elseif word == "garble" then
    garble = true
    return "ok"
  elseif word == "heal" then
    truncate, garble = nil, false
    return set_mode("all", "pass", "both")
  elseif word == "all" or modes[word or ""] then
    return set_mode(word, rest:match "^(%S+) (%S+)$")
  end
  return "no such command: " .. line
end

local function flows(c, p, now)
  local mode = mode_of(c, p)
  return mode ~= "stall", p.first <= p.last and mode == "pass" and p[p.first].due - now or nil
end

-- Which sockets to wait for, and how long.
local function wanted(now)
  local read, write, owners, timeout = {}, {}, {}, 10
  for c in pairs(connections) do
    for _, p in ipairs(c.pipes) do
      local reads, due = flows(c, p, now)
      owners[p.from] = owners[p.from] or {}
      owners[p.to] = owners[p.to] or {}
      if reads and p.bytes < QUEUE_MAX then
        read[#read + 1] = p.from
        owners[p.from].read = { c, p }
      end
      if due and due <= 0 then
        write[#write + 1] = p.to
        owners[p.to].write = { c, p }
      elseif due then
        timeout = math.min(timeout, due)
      end
    end
  end
  return read, write, owners, timeout
end

local listener = assert(socket.bind("127.0.0.1", 0, 128))
listener:settimeout(0)
local control = require "socket.unix"()
assert(control:bind(CONTROL))
assert(control:listen(8))
local _, port = listener:getsockname()
local file = assert(io.open(PORT_FILE .. ".new", "w"))
file:write(port)
file:close()
assert(os.rename(PORT_FILE .. ".new", PORT_FILE))

while true do
  local now = clock()
  local read, write, owners, timeout = wanted(now)
  read[#read + 1], read[#read + 2] = listener, control
  local readable, writable = socket.select(read, write, timeout)
  now = clock()
  for _, sock in ipairs(writable) do
    local c, p = unpack(owners[sock].write)
    if connections[c] then
      send(c, p, now)
    end
  end
  for _, sock in ipairs(readable) do
    if sock == listener then
      accept(listener)
    elseif sock == control then
      local peer = control:accept()
      peer:settimeout(10)
      local line = peer:receive "*l"
      if line then
        peer:send(command(line) .. "\n")
      end
      peer:close()
    else
      local c, p = unpack(owners[sock].read)
      if connections[c] then
        receive(c, p)
        if connections[c] and delay == 0 and mode_of(c, p) == "pass" then
          send(c, p, now + 1)
        end
      end
    end
  end
end
