-- SPDX-License-Identifier: MIT
--- Drives the two nodes that the script `demo` has started, checks what the cache
--- promises, and says in plain words what happened. Exit status 1 if a promise broke.

local here = assert(os.getenv("HERE"))
package.path = here .. "/?.lua;" .. package.path

local socket = require "socket"
local client = require "client"
local mix = require("mix").new()
local nodes = require "nodes"
local report = require "report"

local connections, promise = nodes.connections, nodes.promise
local say, count, ms, plural = report.say, report.count, report.ms, report.plural

local SECONDS = tonumber(os.getenv("GORGE_DEMO_SECONDS") or 3)
local REDIS_PID_FILE, START_REDIS = os.getenv("REDIS_PID_FILE"), os.getenv("START_REDIS")
local CROWD = 200

local function size(set)
  local n = 0
  for _ in pairs(set) do
    n = n + 1
  end
  return n
end

-- The same requests with and without the cache ---------------------------------

--- Asks for the mix, for some seconds or until `most` requests. `asked` collects what was
--- asked for, per node if the nodes share nothing.
local function measure(seconds, most, prefix, asked)
  local result = { latencies = {}, by_source = {} }
  local began, sent = socket.gettime(), 0
  client.run(connections, function(connection)
    if sent < most and socket.gettime() < began + seconds then
      sent = sent + 1
      local path = mix.draw()
      asked[REDIS_PID_FILE and path or connection.node .. path] = true
      return prefix .. path
    end
  end, function(answer, connection)
    nodes.check(answer, connection.path)
    result.latencies[#result.latencies + 1] = answer.seconds
    local source = answer.source or "none"
    result.by_source[source] = (result.by_source[source] or 0) + 1
  end)
  result.seconds = socket.gettime() - began
  return result
end

local function compare()
  say("1. The same requests without and with the cache, over %d connections to the four workers", #connections)
  report.latency_head()
  mix.restart()
  local without = measure(SECONDS, math.huge, "/uncached", {})
  report.latency_row("without the cache", without.seconds, without.latencies)

  mix.restart()
  local before, asked = nodes.loader_runs(), {}
  local cold = measure(SECONDS, math.huge, "", asked)
  report.latency_row("with it, empty at first", cold.seconds, cold.latencies)

  mix.restart()
  local warm = measure(SECONDS, #cold.latencies, "", asked)
  report.latency_row("with it, the same again", warm.seconds, warm.latencies)

  local runs, things, total = nodes.loader_runs() - before, size(asked), #cold.latencies + #warm.latencies
  for source, n in pairs(cold.by_source) do
    warm.by_source[source] = (warm.by_source[source] or 0) + n
  end
  say ""
  say("   Who answered the %s requests with the cache:", count(total))
  report.layers(warm.by_source, total)
  say("   Loader runs: %s, for %s different things asked for%s.", count(runs), count(things),
    REDIS_PID_FILE and "" or " (counted for each node)")
  promise(runs <= things * 1.1, "the loader ran %d times for %d different things", runs, things)
end

-- A crowd asks for one thing that is not there ---------------------------------

--- Returns how often the loader ran, the time until the last answer, the number of
--- workers that answered, and the number of loader runs the answers came from.
local function crowd_asks(crowd, path)
  local before, began = nodes.loader_runs(), socket.gettime()
  local asked, workers, made_by = {}, {}, {}
  client.run(crowd, function(connection)
    if not asked[connection] then
      asked[connection] = true
      return path
    end
  end, function(answer, connection)
    nodes.check(answer, connection.path)
    workers[answer.worker] = true
    made_by[nodes.loader_run(answer)] = true
  end)
  local seconds = socket.gettime() - began
  return nodes.loader_runs() - before, seconds, size(workers), size(made_by)
end

local function stampede()
  local name = mix.cold[1]
  say("2. A stampede: %d requests at once for one package nobody has asked for (%s)", CROWD, name)
  local crowd = nodes.crowd(CROWD)
  local runs, seconds = crowd_asks(crowd, "/uncached/package/" .. name)
  say("   without the cache   loader runs: %-4d last answer after %s", runs, ms(seconds))
  local workers, made_by
  runs, seconds, workers, made_by = crowd_asks(crowd, "/package/" .. name)
  say("   with the cache      loader runs: %-4d last answer after %s", runs, ms(seconds))
  client.close(crowd)
  local expected = REDIS_PID_FILE and 1 or 2
  promise(runs == expected, "a stampede over two nodes ran the loader %d times instead of %d", runs, expected)
  promise(made_by == expected, "the stampede's answers came from %d loader runs instead of %d", made_by, expected)
  if REDIS_PID_FILE then
    say("   One run, and %d workers on two nodes had the answer from it.", workers)
  else
    say("   One run on each node, for %d workers in all: without Redis the nodes share nothing.", workers)
  end
end

-- What one node forgets, the others forget -------------------------------------

--- "2.1 ms later" or "at once": when node B's last old answer came.
local function later(seconds)
  return seconds > 0 and ms(seconds) .. " later" or "at once"
end

local function invalidation()
  say "3. Invalidation: DELETE on node A, then both nodes are asked at once"
  local delays = {}
  for i = 1, 20 do
    local path = "/package/" .. mix.popular[i]
    delays[i] = nodes.delete_and_watch(path, path)
  end
  table.sort(delays)
  say "   Both workers of node A answered anew at once, 20 times of 20."
  say("   Seen on node B: %s (median), %s (slowest of 20).", later(delays[10]), later(delays[20]))

  local victim = "/package/" .. mix.popular[1]
  local section = nodes.get(nodes.a, victim).body:match('"section":"([^"]*)"'):gsub("\\/", "/")
  local delay = nodes.delete_and_watch("/section/" .. section, victim)
  say("   DELETE /section/%s forgets all its packages by one tag; seen on node B: %s.", section, later(delay))
end

local function invalidation_alone()
  say "3. Invalidation: DELETE on node A"
  for i = 1, 20 do
    local path = "/package/" .. mix.popular[i]
    local old = {}
    for _, connection in ipairs(connections) do
      old[connection.node] = nodes.loader_run(nodes.get(connection, path))
    end
    promise(nodes.delete(path) == 200, "DELETE %s did not succeed", path)
    for _, connection in ipairs(connections) do
      local run = nodes.loader_run(nodes.get(connection, path))
      if connection.node == nodes.A then
        promise(run ~= old[nodes.A], "node A still had the old %s after DELETE had been answered", path)
      else
        promise(run == old[nodes.B], "node B ran its loader for %s, but nobody had told it to", path)
      end
    end
  end
  say "   Both workers of node A answered anew at once, 20 times of 20."
  say "   Node B did not: without Redis the nodes do not know of each other, and"
  say "   node B goes on with its own copy until that expires."
end

-- Redis goes and comes back ----------------------------------------------------

local function outage()
  say "4. Redis is killed under load, and comes back"
  local file = assert(io.open(REDIS_PID_FILE))
  local pid = tonumber(file:read("*l"))
  file:close()
  os.execute("kill -KILL " .. assert(pid, "no pid of Redis"))
  for i = 2, #mix.cold do
    nodes.get(connections[i % #connections + 1], "/package/" .. mix.cold[i])
  end
  local result = measure(SECONDS / 3, math.huge, "", {})
  say("   Redis away: %s, %d of them for packages never seen before, 0 errors.",
    plural(#result.latencies + #mix.cold - 1, "request"), #mix.cold - 1)

  local path = "/package/" .. mix.popular[1]
  local old = nodes.loader_run(nodes.get(nodes.a, path))
  promise(nodes.delete(path) == 202, "DELETE without Redis did not say that other nodes may be late")
  for _, connection in ipairs(connections) do
    promise(connection.node == nodes.B or nodes.loader_run(nodes.get(connection, path)) ~= old,
      "node A still had the old %s after DELETE without Redis", path)
  end
  say "   DELETE on node A: node A answers anew at once, and says that others may be late."

  os.execute(START_REDIS)
  local began = socket.gettime()
  repeat
    socket.sleep(0.05)
    promise(socket.gettime() - began < 15, "the nodes did not find Redis again within 15 s")
  until nodes.delete(path) == 200
  local back = socket.gettime() - began
  local delay = nodes.delete_and_watch(path, path)
  say("   Redis back: in use again after %s; a DELETE on node A is seen on node B %s.", ms(back), later(delay))
end

local function main()
  local began = socket.gettime()
  nodes.connect()
  say("A JSON API over the %s packages of this machine, on two nginx nodes of two workers each,",
    count(#mix.popular + #mix.cold))
  say(REDIS_PID_FILE and "which share one Redis." or "without Redis: each node has only its own shared memory.")
  for _, step in ipairs(REDIS_PID_FILE and { compare, stampede, invalidation, outage }
    or { compare, stampede, invalidation_alone }) do
    say ""
    step()
  end
  say ""
  say("All promises held. This took %.0f s.", socket.gettime() - began)
end

io.stdout:setvbuf("line")
local ok, err = pcall(main)
if not ok then
  if tostring(err):find("interrupted!", 1, true) then -- Ctrl-C reaches this process too
    os.exit(130)
  end
  io.stderr:write("\nBROKEN: ", tostring(err), "\n")
  os.exit(1)
end
