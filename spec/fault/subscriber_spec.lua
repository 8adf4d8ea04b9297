-- SPDX-License-Identifier: MIT
-- One worker of each host hears what other nodes do. When it dies or stands still, another one takes over and nothing stays unheard.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

-- Without a message a host would find out no sooner than that.
local BOUND = 60
local HEARD = 10

--- Local ports of the clients of Redis that subscribe.
local function subscriber_ports(redis)
  local ports = {}
  for port in assert(redis:command("CLIENT", "LIST", "TYPE", "pubsub")):gmatch "%f[%w]addr=127%.0%.0%.1:(%d+)" do
    ports[#ports + 1] = tonumber(port)
  end
  return ports
end

--- inode of the socket from this local port to the Redis. By both ends: connections to other servers may have the same local port.
local function socket_inode(redis, port)
  for line in io.lines "/proc/net/tcp" do
    local near, far, inode = line:match "^%s*%d+: %x+:(%x+) %x+:(%x+) %x+ %x+:%x+ %x+:%x+ %x+%s+%d+%s+%d+%s+(%d+)"
    if near and tonumber(near, 16) == port and tonumber(far, 16) == redis.port and inode ~= "0" then
      return inode
    end
  end
end

--- The worker of a node that holds a subscription, or nil.
local function subscriber_of(redis, n, except)
  local inodes = {}
  for _, port in ipairs(subscriber_ports(redis)) do
    local inode = socket_inode(redis, port)
    if inode then
      inodes[inode] = true
    end
  end
  for _, pid in ipairs(n:worker_pids()) do
    local _, list = process.run { "ls", "-l", ("/proc/%d/fd"):format(pid) }
    for inode in list:gmatch "socket:%[(%d+)%]" do
      if inodes[inode] and pid ~= except then
        return pid
      end
    end
  end
end

local function worker_beside(n, pid)
  for id = 0, 1 do
    local worker = n:worker(id)
    if worker.pid ~= pid then
      return worker
    end
    worker:close()
  end
end

describe("when the worker that hears for its host", function()
  local redis, a, b
  before_each(function()
    redis = helper.redis()
    a, b = node.pair(redis, { options = { freshness_bound = BOUND, redis = node.patient(redis) } })
  end)

  --- Ends the subscriber of `a` in some way; what `b` does from that moment on must be seen by another worker of `a`.
  local function take_over(signal)
    -- a second worker that has used Redis, or there is nobody who could take over
    for id = 0, 1 do
      a:worker(id):run [[return cache:fetch("k", 60, load)]]
    end
    local pid = assert(helper.wait_until(function() return subscriber_of(redis, a) end))
    local other = worker_beside(a, pid)
    process.kill(pid, signal)
    -- what is said while nobody of the host hears
    assert.is_true((b:run [[return cache:set("k", "said meanwhile", 60)]]))
    helper.wait_until(function() return other:run [[return cache:get "k"]] == "said meanwhile" end,
      { timeout = HEARD, message = "what was said meanwhile was not heard" })
    local heir = helper.wait_until(function() return subscriber_of(redis, a, pid) end)
    -- and from now on without delay
    for i = 1, 20 do
      local value = "value " .. i
      assert.is_true((b:run([[return cache:set("k", ..., 60)]], value)))
      helper.wait_until(function() return other:run [[return cache:get "k"]] == value end, { timeout = HEARD, interval = 0.001 })
    end
    return pid, heir
  end

  it("is killed, another one takes over", function()
    local pid, heir = take_over(process.SIGKILL)
    assert.not_equal(pid, heir)
    helper.wait_until(function() return #subscriber_ports(redis) == 2 end, { message = "two subscribers in one host" })
  end)

  it("is stopped, another one takes over, and it gives way when it goes on", function()
    local pid, heir = take_over(process.SIGSTOP)
    assert.not_equal(pid, heir)
    process.kill(pid, process.SIGCONT)
    helper.wait_until(function() return #subscriber_ports(redis) == 2 end, { message = "two subscribers in one host" })
    helper.wait_until(function() return subscriber_of(redis, a) == heir end, { message = "the heir gave way" })
    assert.is_true((b:run [[return cache:set("k", "last", 60)]]))
    for id = 0, 1 do
      local worker = a:worker(id)
      helper.wait_until(function() return worker:run [[return cache:get "k"]] == "last" end, { timeout = HEARD })
    end
  end)

  it("leaves because of a reload, nothing goes unheard", function()
    local pid = assert(helper.wait_until(function() return subscriber_of(redis, a) end))
    a:run [[return cache:fetch("k", 60, load)]]
    a.nginx:reload()
    for i = 1, 30 do
      local value = "value " .. i
      assert.is_true((b:run([[return cache:set("k", ..., 60)]], value)))
      helper.wait_until(function() return a:run [[return cache:fetch("k", 60, load)]] == value end, { timeout = HEARD, interval = 0.001 })
    end
    a.nginx:wait_drained()
    assert.not_equal(pid, helper.wait_until(function() return subscriber_of(redis, a) end))
    helper.wait_until(function() return #subscriber_ports(redis) == 2 end, { message = "two subscribers in one host" })
  end)
end)
