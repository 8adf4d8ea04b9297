-- SPDX-License-Identifier: MIT
--- Drives the two nodes that the script `demo` has started, checks what the cache
--- promises, and says in plain words what happened. Exit status 1 if a promise broke.

local here = assert(os.getenv("HERE"))
package.path = here .. "/?.lua;" .. package.path

local socket = require "socket"
local client = require "client"
local new_mix = require("mix").new
local report = require "report"
local say, count, ms, plural = report.say, report.count, report.ms, report.plural

local PORTS = { tonumber(os.getenv("PORT_A")), tonumber(os.getenv("PORT_B")) }
local SECONDS = tonumber(os.getenv("GORGE_DEMO_SECONDS") or 3)
local REDIS_PID_FILE, START_REDIS = os.getenv("REDIS_PID_FILE"), os.getenv("START_REDIS")
local A, B = 1, 2
local CONNECTIONS = 8
local CROWD = 200

local mix = new_mix()
local connections = client.open(PORTS, CONNECTIONS)
local node_a, node_b = connections[A], connections[B]

local function size(set)
    local n = 0
    for _ in pairs(set) do
        n = n + 1
    end
    return n
end

local function promise(kept, format, ...)
    if not kept then
        error(format:format(...), 0)
    end
end

local function check(answer, path)
    local name = path:match("/package/(.*)")
    local unknown = name and name:find("^no%-such%-package")
    promise(answer.status == (unknown and 404 or 200), "%s was answered with status %d: %s",
        path, answer.status, answer.body)
    promise(unknown or not name or answer.body:find(('"name":"%s"'):format(name), 1, true),
        "%s was answered with another package: %s", path, answer.body)
end

local function get(connection, path)
    local answer = client.request(connection, path)
    check(answer, path)
    return answer
end

--- Each answer names the loader run that made it, so a fresh one is told from an old one.
local function loader_run(answer)
    return answer.body:match('"loader_run":"([^"]*)"')
end

local function loader_runs()
    local sum = 0
    for _, node in ipairs { node_a, node_b } do
        sum = sum + tonumber(client.request(node, "/stats").body:match('"loader_runs":(%d+)'))
    end
    return sum
end

-- The same requests with and without the cache ---------------------------------

--- Asks for the mix for some seconds. `asked` collects what was asked for, per node if
--- the nodes share nothing.
local function measure(seconds, prefix, asked)
    local result = { latencies = {}, by_source = {} }
    local began = socket.gettime()
    client.run(connections, function(connection)
        if socket.gettime() < began + seconds then
            local path = mix.draw()
            asked[REDIS_PID_FILE and path or connection.node .. path] = true
            return prefix .. path
        end
    end, function(answer, connection)
        check(answer, connection.path)
        result.latencies[#result.latencies + 1] = answer.seconds
        local source = answer.source or "none"
        result.by_source[source] = (result.by_source[source] or 0) + 1
    end)
    result.seconds = socket.gettime() - began
    return result
end

local function compare()
    say("1. The same requests without and with the cache, over %d connections to both nodes", CONNECTIONS)
    report.latency_head()
    mix.restart()
    local without = measure(SECONDS, "/uncached", {})
    report.latency_row("without the cache", without.seconds, without.latencies)

    mix.restart()
    local before, asked = loader_runs(), {}
    local cold = measure(SECONDS, "", asked)
    report.latency_row("with it, empty at first", cold.seconds, cold.latencies)
    local warm = measure(SECONDS, "", asked)
    report.latency_row("with it, warm", warm.seconds, warm.latencies)

    local runs, things, total = loader_runs() - before, size(asked), #cold.latencies + #warm.latencies
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
    local before, began = loader_runs(), socket.gettime()
    local asked, workers, made_by = {}, {}, {}
    client.run(crowd, function(connection)
        if not asked[connection] then
            asked[connection] = true
            return path
        end
    end, function(answer, connection)
        check(answer, connection.path)
        workers[answer.worker] = true
        made_by[loader_run(answer)] = true
    end)
    local seconds = socket.gettime() - began
    return loader_runs() - before, seconds, size(workers), size(made_by)
end

local function stampede()
    local name = mix.cold[1]
    say("2. A stampede: %d requests at once for one package nobody has asked for (%s)", CROWD, name)
    local crowd = client.open(PORTS, CROWD)
    for _, connection in ipairs(crowd) do
        client.request(connection, "/") -- connected and accepted before it begins
    end
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

--- Deletes on node A, then asks on all connections: node A must answer anew at once,
--- node B within `limit` seconds. Returns how long after the DELETE had been answered
--- node B's last old answer came.
local function delete_and_watch(path, victim, limit)
    local old = {}
    for _, connection in ipairs(connections) do
        old[connection.node] = loader_run(get(connection, victim))
    end
    local deleted = client.request(node_a, path, "DELETE")
    promise(deleted.status == 200, "DELETE %s was answered with status %d: %s", path, deleted.status, deleted.body)
    local acknowledged, done, last_old = socket.gettime(), {}, 0
    client.run(connections, function(connection)
        return not done[connection] and victim or nil
    end, function(answer, connection)
        check(answer, victim)
        if loader_run(answer) ~= old[connection.node] then
            done[connection] = true
            return
        end
        last_old = socket.gettime() - acknowledged
        promise(connection.node == B, "node A still had the old %s after DELETE had been answered", victim)
        promise(last_old < limit, "node B still had the old %s after %.1f s", victim, last_old)
    end)
    return last_old
end

local function invalidation()
    say "3. Invalidation: DELETE on node A, then both nodes are asked at once"
    local delays = {}
    for i = 1, 20 do
        local path = "/package/" .. mix.popular[i]
        delays[i] = delete_and_watch(path, path, 6)
    end
    table.sort(delays)
    say "   Node A answered anew at once, 20 times of 20."
    say("   Seen on node B: %s (median), %s (slowest of 20).", later(delays[10]), later(delays[20]))

    local victim = "/package/" .. mix.popular[1]
    local section = get(node_a, victim).body:match('"section":"([^"]*)"'):gsub("\\/", "/")
    local delay = delete_and_watch("/section/" .. section, victim, 6)
    say("   DELETE /section/%s forgets all its packages by one tag; seen on node B: %s.", section, later(delay))
end

local function invalidation_alone()
    say "3. Invalidation: DELETE on node A"
    for i = 1, 20 do
        local path = "/package/" .. mix.popular[i]
        local old_a, old_b = loader_run(get(node_a, path)), loader_run(get(node_b, path))
        promise(client.request(node_a, path, "DELETE").status == 200, "DELETE %s failed", path)
        for _, connection in ipairs(connections) do
            local run = loader_run(get(connection, path))
            if connection.node == A then
                promise(run ~= old_a, "node A still had the old %s after DELETE had been answered", path)
            else
                promise(run == old_b, "node B ran its loader for %s, but nobody had told it to", path)
            end
        end
    end
    say "   Node A answered anew at once, 20 times of 20."
    say "   Node B did not: without Redis the nodes do not know of each other, and"
    say "   node B goes on with its own copy until that expires."
end

-- Redis goes and comes back ----------------------------------------------------

local function outage()
    say "4. Redis is killed under load, and comes back"
    local file = assert(io.open(REDIS_PID_FILE))
    local pid = tonumber(file:read("*l"))
    file:close()
    promise(pid and os.execute("kill -KILL " .. pid) == 0, "cannot kill Redis, pid %s", tostring(pid))
    for i = 2, #mix.cold do
        get(connections[i % CONNECTIONS + 1], "/package/" .. mix.cold[i])
    end
    local result = measure(SECONDS / 3, "", {})
    say("   Redis away: %s, %d of them for packages never seen before, 0 errors.",
        plural(#result.latencies + #mix.cold - 1, "request"), #mix.cold - 1)

    local path = "/package/" .. mix.popular[1]
    os.execute(START_REDIS)
    local began = socket.gettime()
    repeat
        socket.sleep(0.05)
        promise(socket.gettime() - began < 15, "the nodes did not find Redis again within 15 s")
    until client.request(node_a, path, "DELETE").status == 200
    local back = socket.gettime() - began
    local delay = delete_and_watch(path, path, 6)
    say("   Redis back: in use again after %s; a DELETE on node A is seen on node B %s.", ms(back), later(delay))
end

local function main()
    local began = socket.gettime()
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
    io.stderr:write("\nBROKEN: ", tostring(err), "\n")
    os.exit(1)
end
