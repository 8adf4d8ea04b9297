-- SPDX-License-Identifier: MIT
-- The specs' own tools: a client that took half an answer for a whole one would let everything else pass.
local helper = require "spec.helper"
local socket = require "socket"

local http, process = helper.http, helper.process

-- Sends one request to a server that answers with `pieces` and closes. Returns the response and what the server got.
local function exchange(pieces, request)
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  request = request or {}
  request.port = port
  local batch = http.start { request }
  local peer = assert(server:accept())
  peer:settimeout(5)
  local got = {}
  repeat
    local line = assert(peer:receive "*l")
    got[#got + 1] = line
  until line == ""
  for _, piece in ipairs(pieces) do
    assert(peer:send(piece))
    batch:done()
  end
  peer:close()
  server:close()
  return batch:finish(5)[1], got
end

describe("http.request", function()
  it("takes a body of a given length, in whatever pieces it comes", function()
    local response = exchange { "HTTP/1.1 200 OK\r\nConte", "nt-Length: 5\r\nX-A: b\r\n\r", "\nhe", "llo" }
    assert.same({ 200, "hello", "b" }, { response.status, response.body, response.headers["x-a"] })
    assert.is_nil(response.err)
  end)

  it("takes a chunked body", function()
    local head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert.equal("hello you", exchange({ head, "5\r\nhel", "lo\r\n4\r\n y", "ou\r\n0\r\n", "\r\n" }).body)
    assert.equal("", exchange({ head, "0\r\n\r\n" }).body)
  end)

  it("takes a body that ends with the connection", function()
    assert.equal("all of it", exchange({ "HTTP/1.1 200 OK\r\n\r\nall ", "of it" }).body)
  end)

  it("reports an answer that was cut off", function()
    assert.equal("closed without a response", exchange({}).err)
    assert.equal("closed in the headers", exchange({ "HTTP/1.1 200 OK\r\nContent" }).err)
    assert.equal("closed in the body", exchange({ "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell" }).err)
    local chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    local response = exchange { chunked }
    assert.equal("closed in the body", response.err)
    assert.is_nil(response.status)
    assert.equal("malformed status line", exchange({ "SMTP\r\n\r\n" }).err)
  end)

  it("sends method, headers and body", function()
    local _, got = exchange({ "HTTP/1.1 204 No Content\r\n\r\n" }, {
      method = "POST", uri = "/a?b", headers = { ["X-B"] = "c" }, body = "abc",
    })
    local text = table.concat(got, "\n")
    assert.equal("POST /a?b HTTP/1.1", got[1])
    assert.truthy(text:find("X-B: c", 1, true))
    assert.truthy(text:find("Content-Length: 3", 1, true))
  end)

  it("reports a port where nobody listens", function()
    local response = http.request { port = helper.net.free_port() }
    assert.truthy(response.err:find("connection refused", 1, true) or response.err:find("closed", 1, true), response.err)
  end)

  it("gives up on an answer that does not come", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    assert.equal("timeout", http.request({ port = port, timeout = 0.05 }).err)
    server:close()
  end)
end)

describe("process", function()
  it("tells exit status, signal and output", function()
    assert.same({ 7, "out\nerr\n" }, { process.run { "sh", "-c", "echo out; echo err >&2; exit 7" } })
    assert.equal(127, (process.run { "/nonexistent/program" }))
    assert.equal(-9, (process.run { "sh", "-c", "kill -9 $$" }))
  end)

  it("kills what runs over its time", function()
    local started = helper.now()
    assert.is_nil((process.run { "sleep", "60", timeout = 0.05 }))
    assert.is_true(helper.now() - started < 30)
  end)

  it("sets and removes variables for the child only", function()
    local _, output = process.run { "sh", "-c", "echo ${GORGE_SPEC_A-none} ${HOME-none}", env = { GORGE_SPEC_A = "x", HOME = false } }
    assert.equal("x none\n", output)
    assert.is_nil(os.getenv "GORGE_SPEC_A")
  end)

  it("takes a child along when its parent dies", function()
    local status, output = helper.luajit [[
      local process = require "spec.support.process"
      local child = process.spawn { "sleep", "60" }
      print(child.pid)
      io.stdout:flush()
      process.kill(process.own_pid(), 9)
    ]]
    assert.equal(-9, status)
    local pid = assert(tonumber(output:match "%d+"), output)
    helper.wait_until(function() return not process.exists(pid) end, { message = "the child lives on" })
  end)

  it("waits for a condition, and raises when it stays away", function()
    local count = 0
    assert.equal("yes", helper.wait_until(function() count = count + 1 return count == 3 and "yes" end))
    local ok, err = pcall(helper.wait_until, function() end, { timeout = 0.02, message = "no luck" })
    assert.is_false(ok)
    assert.truthy(err:find("no luck within 0.02 s", 1, true))
  end)
end)

describe("net.free_port", function()
  it("gives a port to one process only, whether or not it listens there yet", function()
    local port = helper.net.free_port()
    local code = ('package.path = "./?.lua;" .. package.path; print(require("spec.support.net").reserve(%d))'):format(port)
    assert.same({ 0, "false\n" }, { process.run { "luajit", "-e", code } })
    assert.same({ 0, "true\n" }, { process.run { "luajit", "-e", (code:gsub(port, 100000 + process.own_pid())) } })
  end)
end)
