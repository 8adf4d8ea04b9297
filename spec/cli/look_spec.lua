-- SPDX-License-Identifier: MIT
-- The command line, looking: zones, stat, peek, against running nginx and Redis.
local gorge = require "spec.cli.program"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local redis, n, zone

setup(function()
  redis = helper.redis()
  n = node.start { options = { redis = node.patient(redis), l1_size = "4m" } }
  zone = n.namespace
  n:run [[
    for i = 1, 50 do cache:fetch("user:" .. i, 600, load, { "users", "user:" .. i }) end
    for i = 1, 50 do cache:fetch("user:" .. i, 600, load, { "users", "user:" .. i }) end
    cache:set("null\0byte\\", "a\27[31mred", 600)
    cache:fetch("nobody", 600, function() return nil end)
    cache:set("table", { a = 1 }, 600)
  ]]
end)

local function one_line(text)
  return (text:gsub("\n$", ""))
end

describe("gorge", function()
  it("says its version, its help and the help of each command", function()
    assert.same({ status = 0, out = "gorge " .. require "gorge.version" .. "\n", err = "" }, gorge.run { "--version" })
    local help = gorge.run { "--help" }
    assert.equal(0, help.status)
    for command in pairs(select(2, require("gorge.cli.main").parser())) do
      assert.matches("\n   " .. command .. " ", help.out, 1, true)
      local said = gorge.run { command, "--help" }
      assert.equal(0, said.status)
      assert.matches("Usage: gorge " .. command, said.out, 1, true)
      assert.matches("\nExamples:\n  ", said.out, 1, true)
      assert.matches("Exit status: 0", said.out, 1, true)
      assert.matches("--json", said.out, 1, true)
    end
  end)

  it("completes in bash, zsh and fish", function()
    for _, shell in ipairs { "bash", "zsh", "fish" } do
      local said = gorge.run { "--completion", shell }
      assert.equal(0, said.status)
      assert.matches("doctor", said.out, 1, true)
    end
    local script = helper.temp_dir() .. "/completion"
    process.write_file(script, gorge.run({ "--completion", "bash" }).out)
    assert.equal(0, process.run { "bash", "-n", script })
  end)

  it("ends with 2 when it is used wrongly, and says how it is used", function()
    for _, arguments in ipairs {
      { "stat", zone, "--for", "0" },
      {}, { "frobnicate" }, { "stat" }, { "stat", zone, "more" }, { "stat", zone, "--wrong" }, { "peek", zone }, { "stat", zone, "--watch", "0" },
      { "stat", zone, "--watch", "soon" }, { "stat", zone, "--pid", "x" }, { "peek", zone, "" }, { "peek", zone, "-e", "\\q" },
      { "doctor", "--redis", "http://x" }, { "zones", "--json=1" },
    } do
      local said = gorge.run(arguments)
      assert.equal(2, said.status, table.concat(arguments, " ") .. said.out .. said.err)
      assert.equal("", said.out)
      assert.matches("^gorge: ", said.err)
    end
  end)

  it("ends with 1 when there is no such zone, and names those that there are", function()
    local said = gorge.run { "stat", "no-such-zone" }
    assert.equal(1, said.status)
    assert.matches('gorge: there is no zone "no-such-zone": there are ', said.err, 1, true)
    assert.matches(zone, said.err, 1, true)
    said = gorge.run { "stat", zone, "--pid", "1" }
    assert.equal(1, said.status)
    assert.matches("in process 1", said.err, 1, true)
    said = gorge.run { "stat", zone, "--namespace", "other" }
    assert.equal(1, said.status)
    assert.matches('has no namespace "other": it has ' .. zone, said.err, 1, true)
  end)
end)

describe("gorge zones", function()
  it("lists the zone with its processes", function()
    local told, status = gorge.json { "zones" }
    assert.equal(0, status)
    local mine
    for _, z in ipairs(told.zones) do
      mine = z.name == zone and z or mine
    end
    assert.equal(n.nginx.pid, mine.pid)
    assert.equal(4 * 1048576, mine.size)
    assert.equal(53, mine.entries)
    assert.same({ { name = zone, redis = true } }, mine.namespaces)
    local pids = { n.nginx.pid }
    for _, pid in ipairs(n:worker_pids()) do
      pids[#pids + 1] = pid
    end
    table.sort(pids)
    table.sort(mine.processes)
    assert.same(pids, mine.processes)
    local text = gorge.run { "zones" }
    assert.equal(0, text.status)
    assert.matches(("\n%s +%d +%%S+ +3 +4.0 MB +53 +"):format(zone:gsub("%-", "%%-"), n.nginx.pid), text.out)
  end)
end)

describe("gorge stat", function()
  it("shows what cache:stats() returns", function()
    local told, status = gorge.json { "stat", zone }
    assert.equal(0, status)
    assert.same({ zone, n.nginx.pid, "root" }, { told.zone, told.pid, process.is_root() and told.user or "root" })
    local mine, theirs = told.namespaces[1], n:stats()
    -- A worker that was asked to tell has heard more, and hears on.
    for _, name in ipairs { "lag", "messages", "redis", "host", "redis_pending", "workers", "breaker_opens", "l2_latency", "subscribed" } do
      mine[name], theirs[name] = nil, nil
    end
    assert.same(theirs, mine)
    assert.equal("used", gorge.json({ "stat", zone }).namespaces[1].redis)
    helper.wait_until(function() return gorge.json({ "stat", zone }).namespaces[1].subscribed end)
  end)

  it("names the nodes of a cluster whose breakers are not closed", function()
    local cluster = helper.cluster { replicas = 0, config = "cluster-require-full-coverage no" }
    local m = node.start { options = {
      l1_size = "4m", redis = { cluster = cluster:addresses(), timeout = 5, connect_timeout = 5 }, circuit_breaker = { max_failures = 2, timeout = 60 },
    } }
    local function set_all()
      return m:run [[
        local told = 0
        for i = 1, 24 do
          told = told + (cache:set("k" .. i, 1, 60) and 1 or 0)
        end
        return told]]
    end
    helper.wait_until(function() return set_all() == 24 end)
    assert.is_nil(gorge.json({ "stat", m.namespace }).namespaces[1].node_breakers)
    assert.matches("breaker +closed, opened 0 times\n", gorge.run({ "stat", m.namespace }).out)
    local places = {}
    for i = 2, 3 do
      places[i - 1] = "127.0.0.1:" .. cluster.servers[i].port
      cluster:kill(cluster.servers[i])
    end
    table.sort(places)
    local want = { { node = places[1], breaker = "open" }, { node = places[2], breaker = "open" } }
    helper.wait_until(function()
      set_all()
      return m:stats().breaker_opens == 2
    end)
    assert.same(want, gorge.json({ "stat", m.namespace }).namespaces[1].node_breakers)
    assert.matches("breaker +open, opened 2 times; " .. places[1] .. " open, " .. places[2] .. " open\n", gorge.run({ "stat", m.namespace }).out)
  end)

  it("tells people the same", function()
    helper.wait_until(function() return gorge.json({ "stat", zone }).namespaces[1].subscribed end)
    local said = gorge.run { "stat", zone }
    assert.equal(0, said.status)
    assert.equal("", said.err)
    for _, line in ipairs {
      "zone " .. zone .. " of 4.0 MB, process " .. n.nginx.pid, "53 values in ", "namespace " .. zone, "hit ratio 49.5 %",
      "listening to other nodes, confirmed ",
      "no invalidation waits", "closed, opened 0 times", "2 set, 0 deleted",
    } do
      assert.matches(line, said.out, 1, true)
    end
    assert.matches("loader +51 +50%.5 %%", said.out)
  end)

  it("goes on with --watch, and shows what happened in between", function()
    local running = gorge.start { "stat", zone, "--watch", "0.2", "--json" }
    helper.wait_until(function() return #running.lines() >= 2 end)
    running:stop()
    running = gorge.start { "stat", zone, "--watch", "0.5" }
    helper.wait_until(function()
      n:run [[cache:get "user:1"]]
      return running.text():match "answers +[%d,]+ +hit ratio [%d.]+ %% +[%d.,]+/s +hit ratio 100.0 %%"
    end, { message = function() return running.text() end })
    running:stop()
  end)

  it("survives a reload and a killed worker", function()
    local running = gorge.start { "stat", zone, "--watch", "0.1", "--json" }
    helper.wait_until(function() return #running.lines() >= 1 end)
    n.nginx:reload()
    process.kill(n:worker_pids()[1], process.SIGKILL)
    helper.wait_until(function() return #n:worker_pids() == 2 end)
    n:run [[cache:get "user:1"]]
    local seen = #running.lines()
    helper.wait_until(function() return #running.lines() >= seen + 3 end)
    assert.is_true(running:alive())
    running:stop()
    assert.equal(0, gorge.run({ "stat", zone }).status)
    assert.equal("value of user:1", (n:run [[return cache:get "user:1"]]))
  end)
end)

describe("gorge peek", function()
  it("shows what L1 holds of a key, without counting as a use", function()
    local before = n:stats()
    local told, status = gorge.json { "peek", zone, "user:7" }
    assert.equal(0, status)
    assert.same({ "user:7", zone, true, false, "string", #"value of user:7" },
      { told.key, told.namespace, told.found, told.negative, told.kind, told.size })
    assert.same({ "user:7", "users" }, { told.tags[2], told.tags[1] })
    assert.is_true(told.ttl > 200 and told.ttl <= 300)
    assert.matches("^%d+$", told.version)
    assert.is_nil(told.value)
    assert.equal("value of user:7", gorge.json({ "peek", zone, "user:7", "--value" }).value)
    local after = n:stats()
    assert.same({ before.l1_hits, before.l1_misses }, { after.l1_hits, after.l1_misses })
    local text = gorge.run { "peek", zone, "user:7" }
    assert.matches("tags       users, user:7\n", text.out, 1, true)
    assert.is_nil(text.out:find("value of", 1, true))
  end)

  it("shows foreign bytes escaped, and takes them so", function()
    local told, status = gorge.json { "peek", zone, "--escaped", "null\\x00byte\\x5c", "--value" }
    assert.equal(0, status)
    assert.same({ "null\\x00byte\\x5c", "a\\x1b[31mred" }, { told.key, told.value })
    assert.is_nil(gorge.run({ "peek", zone, "-e", "null\\x00byte\\x5c", "--value" }).out:find "[%z\1-\9\11-\31\127-\255]")
    assert.same({}, gorge.json({ "peek", zone, "table" }).tags)
  end)

  it("knows a remembered nothing from a key that is not there", function()
    local told, status = gorge.json { "peek", zone, "nobody" }
    assert.same({ 0, true, true }, { status, told.found, told.negative })
    told, status = gorge.json { "peek", zone, "never seen" }
    assert.same({ 1, false }, { status, told.found })
    local said = gorge.run { "peek", zone, "never\nseen" }
    assert.same({ 1, "never\\x0aseen is not in L1" }, { said.status, one_line(said.out) })
  end)
end)

describe("gorge explain", function()
  it("says why a worker would find a key, without counting as a use", function()
    local before = n:stats()
    local told, status = gorge.json { "explain", zone, "user:7" }
    assert.equal(0, status)
    assert.same({ "user:7", zone, zone, "good", true }, { told.key, told.namespace, told.zone, told.l1.state, told.freshness.open })
    assert.matches("^L1: good, %d+ s left$", told.reason)
    assert.same({ "users", "user:7" }, told.l1.tags)
    assert.same({ "users", "same" }, { told.tags[1].name, told.tags[1].l1 })
    assert.matches("^%d+$", told.l1.version)
    assert.is_nil(told.flight)
    local after = n:stats()
    assert.same({ before.l1_hits, before.l1_misses }, { after.l1_hits, after.l1_misses })
    assert.matches("reason +L1: good, %d+ s left\n", gorge.run({ "explain", zone, "user:7" }).out)
  end)

  it("says why not, and what runs meanwhile", function()
    n:run [[cache:set("short", "v", 0.01) cache:set("tagged", "v", 60, "a tag\n") cache:invalidate_tags "a tag\n"]]
    helper.sleep(0.02)
    local told, status = gorge.json { "explain", zone, "short" }
    assert.same({ 1, "expired" }, { status, told.l1.state })
    assert.matches("^L1: expired ", told.reason)
    told, status = gorge.json { "explain", zone, "tagged" }
    assert.same({ 1, "tag changed", "a tag\\x0a", "changed" }, { status, told.l1.state, told.tags[1].name, told.tags[1].l1 })
    assert.is_nil(gorge.run({ "explain", zone, "tagged" }).out:find "[%z\1-\9\11-\31\127-\255]")
    told, status = gorge.json { "explain", zone, "never seen" }
    assert.same({ 1, "none", "L1: not there" }, { status, told.l1.state, told.reason })
    assert.same({}, told.tags)
    local fill = n:start(1, [[return cache:fetch("slow", 60, load_at_gate)]])
    n:wait_count "at loader"
    told, status = gorge.json { "explain", zone, "slow" }
    assert.same({ 1, "running", false }, { status, told.flight.state, told.flight.here })
    assert.matches("; a fill in progress on this host would be waited for, its lease ends in ", told.reason, 1, true)
    assert.matches("fill +running, 0 workers wait, ", gorge.run({ "explain", zone, "slow" }).out)
    n:run [[open "loader"]]
    fill:results()
    assert.equal(0, gorge.run({ "explain", zone, "slow" }).status)
  end)
end)

describe("several", function()
  it("servers with a zone of one name are told apart by --pid", function()
    local other = node.start { options = { namespace = zone, zone = zone, l1_size = "2m" } }
    other:run [[cache:set("k", 1, 60)]]
    local said = gorge.run { "stat", zone }
    assert.equal(2, said.status)
    assert.matches("--pid " .. other.nginx.pid .. "   process " .. other.nginx.pid .. " of user ", said.err, 1, true)
    assert.matches("--pid " .. n.nginx.pid, said.err, 1, true)
    assert.equal(2 * 1048576, gorge.json({ "stat", zone, "--pid", other.nginx.pid }).namespaces[1].zone_size)
    assert.equal(4 * 1048576, gorge.json({ "stat", zone, "--pid", n:worker_pids()[1] }).namespaces[1].zone_size)
    other.nginx:quit()
  end)

  it("namespaces of one zone are told apart by --namespace", function()
    local name = helper.unique_name "shared"
    local other = node.start {
      options = { namespace = name .. "-a", zone = name, l1_size = "2m" },
      init = ([[second = assert(require("gorge").new { namespace = "%s-b", zone = "%s", l1_size = "2m" })
        require("spec.nginx.app").second = second]]):format(name, name),
    }
    other:run [[cache:set("k", "first", 60) second:set("k", "second", 60)]]
    local said = gorge.run { "peek", name, "k" }
    assert.equal(2, said.status)
    assert.matches("--namespace: " .. name .. "-a, " .. name .. "-b", said.err, 1, true)
    assert.equal("second", gorge.json({ "peek", name, "k", "-n", name .. "-b", "--value" }).value)
    local told = gorge.json { "stat", name }
    assert.same({ "none", "none" }, { told.namespaces[1].redis, told.namespaces[2].redis })
    assert.equal(1, #gorge.json({ "stat", name, "-n", name .. "-a" }).namespaces)
    assert.matches("not used: shared memory alone", gorge.run({ "stat", name }).out, 1, true)
    other.nginx:quit()
  end)

  it("workers that meet in /dev/shm have a zone like all others", function()
    local name = helper.unique_name "siblings"
    local other = node.start { options = { namespace = name, l1_size = "2m" }, phase = "init_worker" }
    other:run [[cache:set("k", "v", 60)]]
    assert.equal("v", gorge.json({ "peek", name, "k", "--value" }).value)
    other.nginx:quit()
    assert.equal(1, gorge.run({ "peek", name, "k" }).status)
  end)
end)
