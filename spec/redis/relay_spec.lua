-- SPDX-License-Identifier: MIT
-- The relay of the specs does to connections what it says.
local socket = require "socket"
local helper = require "spec.helper"

describe("the relay", function()
  local redis, relay, opened

  setup(function()
    redis = helper.redis()
    relay = helper.relay(redis)
  end)

  before_each(function() opened = {} end)

  after_each(function()
    relay:heal()
    relay:delay(0)
    for _, sock in ipairs(opened) do
      sock:close()
    end
  end)

  local function connect()
    local sock = assert(socket.connect("127.0.0.1", relay.port))
    sock:settimeout(5)
    opened[#opened + 1] = sock
    return sock
  end

  local function ask(sock, line, timeout)
    sock:settimeout(timeout or 5)
    sock:send(line .. "\r\n")
    return sock:receive "*l"
  end

  local function subscribe()
    local sock = connect()
    assert(sock:send "*2\r\n$9\r\nSUBSCRIBE\r\n$7\r\nchannel\r\n")
    for _ = 1, 6 do
      assert(sock:receive "*l")
    end
    return sock
  end

  it("passes bytes on, in both directions, however many", function()
    local sock, value = connect(), ("x"):rep(3000000)
    assert(sock:send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n" .. value .. "\r\n"))
    assert.equal("+OK", sock:receive "*l")
    assert.equal("$3000000", ask(sock, "GET k"))
    assert.equal(value, sock:receive(3000000))
  end)

  it("cuts connections, and closes new ones, until it heals", function()
    local sock = connect()
    assert.equal("+PONG", ask(sock, "PING"))
    relay:cut()
    assert.is_nil((ask(sock, "PING")))
    assert.is_nil((ask(connect(), "PING")))
    relay:heal()
    assert.equal("+PONG", ask(connect(), "PING"))
  end)

  it("holds bytes back", function()
    local sock = connect()
    assert.equal("+PONG", ask(sock, "PING"))
    relay:stall()
    local _, err = ask(sock, "PING", 0.1)
    assert.equal("timeout", err)
    relay:heal()
    sock:settimeout(5)
    assert.equal("+PONG", sock:receive "*l")
  end)

  it("lets bytes vanish in one direction, and ends the connection then", function()
    local sock = connect()
    relay:black_hole "down"
    local _, err = ask(sock, "SET hole 1", 0.1)
    assert.equal("timeout", err)
    helper.wait_until(function() return redis:command("GET", "hole") == "1" end)
    relay:heal()
    sock:settimeout(5)
    _, err = sock:receive "*l"
    assert.equal("closed", err)
  end)

  it("closes connections in the middle of a reply", function()
    redis:command("SET", "long", ("y"):rep(100))
    local sock = connect()
    relay:truncate(10)
    assert.equal("$100", ask(sock, "GET long"))
    local _, err, partial = sock:receive "*a"
    assert.equal(4, #(partial or _), err) -- of 10 bytes 6 were the line
    relay:heal()
    assert.equal("$100", ask(connect(), "GET long"))
  end)

  it("makes other bytes of replies, and ends the connection then", function()
    local sock = connect()
    relay:garble()
    sock:send "PING\r\n"
    local bytes = sock:receive(7)
    assert.equal(7, #bytes)
    assert.is_nil(bytes:find "PONG")
    relay:heal()
    local _, err = sock:receive(1)
    assert.equal("closed", err)
    assert.equal("+PONG", ask(connect(), "PING"))
  end)

  it("tells subscriptions from commands", function()
    local listener, sock = subscribe(), connect()
    assert.equal("+PONG", ask(sock, "PING"))
    relay:cut "pubsub"
    assert.equal("+PONG", ask(sock, "PING"))
    local _, err = listener:receive "*l"
    assert.equal("closed", err)
    relay:heal()
    listener = subscribe()
    relay:cut "commands"
    assert.is_nil((ask(sock, "PING")))
    redis:command("PUBLISH", "channel", "text")
    assert.equal("*3", listener:receive "*l")
  end)

  it("delays, and goes to another server", function()
    local other = helper.redis()
    local sock = connect()
    assert.equal("+PONG", ask(sock, "PING"))
    relay:delay(0.05)
    local since = helper.now()
    assert.equal("+PONG", ask(sock, "PING"))
    assert.is_true(helper.now() - since >= 0.1)
    relay:delay(0)
    redis:command("SET", "who", "first")
    other:command("SET", "who", "second")
    relay:target(other.port)
    assert.is_nil((ask(sock, "PING")))
    sock = connect()
    assert.equal("$6", ask(sock, "GET who"))
    assert.equal("second", sock:receive "*l")
    assert.equal(1, relay:connections())
  end)
end)
