-- SPDX-License-Identifier: MIT
--- A TCP relay in a process of its own, between a node and Redis (or whatever else listens on a port), that can be made to fail.
---
---     local relay = require("spec.support.relay").start(redis.port)   -- or helper.relay(redis)
---     gorge.new { redis = relay.url }
---     relay:cut()                       -- every connection is closed, new ones are closed at once
---     relay:stall()                     -- nothing moves; what was sent arrives after heal
---     relay:black_hole("down")          -- what comes from Redis is lost; connections stay open, and end with heal
---     relay:stall("both", "pubsub")     -- only connections that have subscribed; "commands": only the others
---     relay:truncate(10)                -- closes connections after ten more bytes from Redis
---     relay:garble()                    -- other bytes, as many
---     relay:delay(0.002)                -- latency in each direction
---     relay:target(other.port)          -- connections go there from now on; those to the old one are closed
---     relay:heal()
local process = require "spec.support.process"

local _M = {}

---@class gorge.spec.Relay
---@field port integer where it listens on 127.0.0.1
---@field url string redis://127.0.0.1:PORT/0
---@field dir string its folder
local Relay = {}
Relay.__index = Relay

--- Starts one and waits until it listens.
---@param target integer port on 127.0.0.1
---@return gorge.spec.Relay
function _M.start(target)
  local self = setmetatable({ dir = process.temp_dir() }, Relay)
  self.control = self.dir .. "/control"
  self.process = process.spawn {
    "luajit", "spec/support/relay_process.lua", self.control, tostring(target), self.dir .. "/port", stdout = self.dir .. "/output",
  }
  self.port = process.wait_until(function()
    if not self.process:alive() then
      error("the relay ended: " .. (process.read_file(self.dir .. "/output") or ""))
    end
    return tonumber(process.read_file(self.dir .. "/port") or "")
  end, { message = "the relay did not start" })
  self.url = ("redis://127.0.0.1:%d/0"):format(self.port)
  return self
end

local function say(self, line)
  local sock = require "socket.unix"()
  sock:settimeout(10)
  assert(sock:connect(self.control))
  assert(sock:send(line .. "\n"))
  local answer = assert(sock:receive "*l")
  sock:close()
  return answer
end

local function set(self, mode, direction, class)
  local answer = say(self, ("%s %s %s"):format(class or "all", mode, direction or "both"))
  assert(answer == "ok", answer)
end

--- Closes what is open and whatever comes.
---@param class? "commands"|"pubsub" default: all
function Relay:cut(class)
  set(self, "cut", "both", class)
end

--- Moves nothing until heal; then all that was held back arrives.
---@param direction? "both"|"up"|"down" up: towards Redis
---@param class? "commands"|"pubsub"
function Relay:stall(direction, class)
  set(self, "stall", direction, class)
end

--- Takes bytes and lets them vanish.
---@param direction? "both"|"up"|"down"
---@param class? "commands"|"pubsub"
function Relay:black_hole(direction, class)
  set(self, "black_hole", direction, class)
end

function Relay:heal()
  assert(say(self, "heal") == "ok")
end

--- Closes connections in the middle of what Redis says: each after so many more bytes from there, new ones too; not those that have subscribed.
---@param bytes integer
function Relay:truncate(bytes)
  assert(say(self, "truncate " .. bytes) == "ok")
end

--- Makes other bytes of what Redis says, as many.
function Relay:garble()
  assert(say(self, "garble") == "ok")
end

---@param seconds number
function Relay:delay(seconds)
  assert(say(self, "delay " .. seconds) == "ok")
end

--- Another server from now on.
---@param port integer
function Relay:target(port)
  assert(say(self, "target " .. port) == "ok")
  self:cut()
  self:heal()
end

---@return integer open connections
function Relay:connections()
  return tonumber(say(self, "count"))
end

--- Ends the process and removes its folder. Idempotent.
function Relay:stop()
  if self.dir then
    self.process:stop(process.SIGKILL)
    process.remove_dir(self.dir)
    self.dir = nil
  end
end

return _M
