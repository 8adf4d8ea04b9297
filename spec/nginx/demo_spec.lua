-- SPDX-License-Identifier: MIT
-- The demo keeps its promises, notices when one breaks, and leaves nothing behind.
local helper = require "spec.helper"
local process = helper.process

local DEMO = helper.paths.root .. "/examples/packages/demo"

local function entries(dir)
  local _, output = process.run { "ls", "-A", dir }
  return output
end

-- Runs the demo to its end, in a temporary folder of its own that it has to leave empty.
local function run(opts)
  local tmp = helper.temp_dir()
  local env = { TMPDIR = tmp, BUILD = helper.paths.build, GORGE_DEMO_SECONDS = "0.5", REDIS = opts.redis or false }
  for name, value in pairs(opts.env or {}) do
    env[name] = value
  end
  local status, output = process.run { opts.demo or DEMO, env = env, cwd = "/", timeout = 60 }
  assert.equal("", entries(tmp), "left behind in its temporary folder")
  return status, output
end

-- Starts it and waits until its output holds a text.
local function start(command, text)
  local tmp = helper.temp_dir()
  local output = helper.temp_dir() .. "/output"
  local demo = helper.spawn {
    DEMO,
    command,
    env = { TMPDIR = tmp, BUILD = helper.paths.build, REDIS = false },
    cwd = "/",
    stdout = output,
    death_signal = process.SIGTERM,
  }
  helper.defer(function() demo:stop(process.SIGTERM, 20) end) -- in order, before it is killed
  process.wait_until(function()
    local said = process.read_file(output) or ""
    assert(demo:alive(), said)
    return said:find(text, 1, true)
  end, { timeout = 30, message = function() return "no sign of life: " .. (process.read_file(output) or "") end })
  return demo, tmp, process.read_file(output)
end

-- What the demo has started: Redis, the nginx masters and their workers.
local function servers(demo)
  local pids = {}
  for _, pid in ipairs(process.children(demo.pid)) do
    if process.command_line(pid):find "^redis%-server" or process.command_line(pid):find "^nginx: master" then
      pids[#pids + 1] = pid
      for _, worker in ipairs(process.children(pid)) do
        pids[#pids + 1] = worker
      end
    end
  end
  return pids
end

local function assert_stops(demo, sig, tmp, status)
  local pids = servers(demo)
  assert.equal(7, #pids, "one Redis, two masters, four workers")
  demo:kill(sig)
  assert.equal(status, demo:wait(20))
  for _, pid in ipairs(pids) do
    assert.is_false(process.exists(pid), process.command_line(pid))
  end
  assert.equal("", entries(tmp))
end

-- A checkout whose module gorge is the given code; everything else is the real one.
local function checkout_with(code)
  local root = helper.temp_dir()
  process.run { "mkdir", "-p", root .. "/lua/gorge" }
  process.run { "ln", "-s", helper.paths.root .. "/examples", root .. "/examples" }
  process.write_file(root .. "/lua/gorge/init.lua", code)
  return root .. "/examples/packages/demo"
end

describe("the packages demo", function()
  it("holds its promises over two nodes that share a Redis", function()
    local status, output = run {}
    assert.equal(0, status, output)
    assert.matches("without the cache +loader runs: 200 ", output)
    assert.matches(" with the cache +loader runs: 1 ", output)
    assert.matches("Both workers of node A answered anew at once, 20 times of 20", output)
    assert.matches("Seen on node B: ", output)
    assert.matches("Redis away: [%d,]+ requests, .* 0 errors", output)
    assert.matches("says that others may be late", output)
    assert.matches("Redis back: in use again after ", output)
    assert.matches("All promises held", output)
  end)

  it("holds them on shared memory alone", function()
    local status, output = run { redis = "none" }
    assert.equal(0, status, output)
    assert.matches("One run on each node", output)
    assert.matches("the nodes do not know of each other", output)
    assert.matches("All promises held", output)
  end)

  it("fails and says why when the loader runs more often than it may", function()
    local status, output = run {
      redis = "none",
      demo = checkout_with [[
        local cache = {
          fetch = function(_, key, _, fn)
            local value, err = fn(key)
            return value, err, "fn"
          end,
          stats = function() return {} end,
        }
        return { new = function() return cache end }
      ]],
    }
    assert.equal(1, status, output)
    assert.matches("BROKEN: the loader ran %d+ times for %d+ different things", output)
    assert.not_matches("All promises held", output)
  end)

  it("fails and says why when a request fails", function()
    local status, output = run {
      redis = "none",
      demo = checkout_with [[
        local cache = {
          fetch = function() return nil, "gorge: out of order" end,
          stats = function() return {} end,
        }
        return { new = function() return cache end }
      ]],
    }
    assert.equal(1, status, output)
    assert.matches("BROKEN: .* was answered with status 503: .*out of order", output)
  end)

  it("shows nginx's words when nginx does not start", function()
    local status, output = run { redis = "none", demo = checkout_with "error 'gorge: broken at load'" }
    assert.equal(1, status, output)
    assert.matches("gorge: broken at load", output)
    assert.matches("demo: nginx does not start", output)
  end)

  it("says what to do when the library is not built", function()
    local status, output = run { env = { BUILD = "/nowhere" } }
    assert.equal(1, status, output)
    assert.matches("/nowhere/libgorge.so not found; run make first", output, 1, true)
  end)

  it("refuses what it does not know", function()
    local status, output = run { redis = "redis://127.0.0.1" }
    assert.equal(1, status)
    assert.matches('REDIS: only "none" can be asked for', output, 1, true)
  end)

  it("cleans up when it is ended in the middle", function()
    local demo, tmp = start("run", "per sec")
    assert_stops(demo, process.SIGTERM, tmp, 143)
  end)
end)

describe("the packages demo, served", function()
  it("prints addresses that work, and stops on an interrupt", function()
    local demo, tmp, output = start("serve", "Ctrl-C stops it")
    local ports = {}
    for port in output:gmatch "node %w  http://127%.0%.0%.1:(%d+)" do
      ports[#ports + 1] = tonumber(port)
    end
    local function request(node, uri, method)
      return helper.http.request { port = ports[node], uri = uri, method = method }
    end

    local first = request(1, "/package/bash")
    assert.equal(200, first.status)
    assert.equal("fn", first.headers["x-cache"])
    assert.matches('"name":"bash"', first.body, 1, true)
    assert.matches('"section":"shells"', first.body, 1, true)
    assert.matches('"depends":%[%[{.*"installed":"%d', first.body)

    local second = request(2, "/package/bash")
    assert.equal("l2", second.headers["x-cache"])
    local run_name = first.body:match '"loader_run":"([^"]+)"'
    assert.equal(run_name, second.body:match '"loader_run":"([^"]+)"')

    assert.equal(404, request(1, "/package/no-such-thing").status)
    assert.equal("fn", request(1, "/package/no-such-thing-either").headers["x-cache"])
    assert.matches("^l[01]$", request(1, "/package/no-such-thing").headers["x-cache"])

    assert.equal(200, request(1, "/package/bash", "DELETE").status)
    process.wait_until(function()
      return request(2, "/package/bash").body:match '"loader_run":"([^"]+)"' ~= run_name
    end, { message = "node B kept what node A had deleted" })

    assert.equal("none", request(1, "/uncached/package/bash").headers["x-cache"])
    assert.matches('"name":"bash"', request(1, "/section/shells").body, 1, true)
    assert.matches('"loader_runs":%d+', request(1, "/stats").body)
    assert_stops(demo, process.SIGINT, tmp, 0)
  end)
end)
