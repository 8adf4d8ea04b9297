-- SPDX-License-Identifier: MIT
-- Two hosts of two workers and a program in gorge.run share a real Redis Cluster of three masters: all that they do with one Redis they do with it.
-- Runs alone: six servers and two nginx are enough for the processors.
local helper = require "spec.helper"
local gorge = require "gorge"
local node = require "spec.nginx.node"

local PARTITIONS = 64
local KEYS = 200

local cluster, a, b, workers, program

--- Of the namespace of the nodes.
local function tag_of(partition)
  return ("{%d:%s:%d}"):format(#a.namespace, a.namespace, partition)
end

local function partition_of(key)
  return cluster.servers[1]:command("CLUSTER", "KEYSLOT", key) % PARTITIONS
end

setup(function()
  cluster = helper.cluster()
  a, b = node.pair(cluster.servers[1], { options = { redis = { cluster = cluster:addresses(2), timeout = 10 }, lock_sleep = 5 } })
  workers = {}
  for _, n in ipairs { a, b } do
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function() return worker:run [[return cache:set("warm", 1, 60)]] end)
      workers[#workers + 1] = worker
    end
  end
  program = assert(gorge.new { namespace = a.namespace, zone = a.namespace .. "-program", l1_size = "4m",
    redis = { cluster = cluster:addresses(1), timeout = 10 } })
end)

teardown(function()
  for _, worker in ipairs(workers or {}) do
    worker:close()
  end
  if program then
    program:close()
  end
end)

--- Runs code in all workers; calls `check` with what each returned.
local function each(code, arg, check)
  for i, worker in ipairs(workers) do
    check(i, worker:run(code, arg))
  end
end

describe("a cluster", function()
  it("keeps the values of a namespace on all of its masters, in 64 partitions", function()
    local name = helper.unique_name "spread"
    assert.equal(KEYS, a:run([[
      local name, n = ...
      for i = 1, n do
        local value, err, source = cache:fetch(name .. i, 60, load)
        assert(value == "value of " .. name .. i and not err and source == "fn", err)
      end
      return n
    ]], name, KEYS))
    assert.equal(KEYS, b:run([[
      local name, n = ...
      local l2 = 0
      for i = 1, n do
        local value, err, source = cache:fetch(name .. i, 60, load)
        assert(value == "value of " .. name .. i, err)
        l2 = l2 + (source == "l2" and 1 or 0)
      end
      return l2
    ]], name, KEYS))
    local found, partitions = 0, {}
    for _, master in ipairs(cluster:masters()) do
      local here = 0
      for _, key in ipairs(master:command("KEYS", "*:v:" .. name .. "*")) do
        local tag, own = key:match "^(%b{}):%d+:v:(.*)$"
        local partition = partition_of(own)
        assert.equal(tag_of(partition), tag)
        partitions[partition] = true
        here = here + 1
      end
      assert.is_true(here > KEYS / 10, here .. " on one of them")
      found = found + here
    end
    assert.equal(KEYS, found)
    local used = 0
    for _ in pairs(partitions) do
      used = used + 1
    end
    assert.is_true(used > PARTITIONS * 0.8, used .. " partitions")
  end)

  it("sends each command to the node that has the slot at once", function()
    local before = cluster:errors "MOVED"
    local name = helper.unique_name "moved"
    for i = 1, 50 do
      assert.is_true((a:run([[return cache:set(..., 1, 60, "t")]], name .. i)))
    end
    assert.equal(before, cluster:errors "MOVED")
  end)

  -- What is done to a value, and what a read finds afterwards.
  local CHANGES = {
    { name = "set", code = [[return cache:set(..., 2, 60)]], after = 2 },
    { name = "delete", code = [[return cache:delete(...)]] },
    { name = "update", code = [[return cache:update(..., 60, function(old) return old + 1 end) == 2]], after = 2 },
    { name = "invalidate_tags", code = [[return cache:invalidate_tags("another", "tag of " .. ...)]] },
    { name = "clear", code = [[return cache:clear()]], messages = PARTITIONS },
  }

  for _, change in ipairs(CHANGES) do
    it("tells every worker of every host of " .. change.name, function()
      for i = 1, 12 do -- keys of as many partitions
        local key = helper.unique_name "changed"
        assert.is_true((workers[1]:run([[return cache:set(..., 1, 60, "tag of " .. ...)]], key)))
        each([[return cache:get(...)]], key, function(w) -- who has not heard of a clear yet looks under the names of before
          helper.wait_until(function() return workers[w]:run([[return cache:get(...)]], key) == 1 end, { timeout = 2 })
        end)
        each([[for _ = 1, 3 do cache:get(...) end return cache:get(...)]], key, function(_, value, err, source)
          assert.same({ 1, nil, "l0" }, { value, err, source })
        end)
        gorge.run(function() assert.equal(1, (program:get(key))) end)
        local heard = { a:stats().messages, b:stats().messages, program:stats().messages }
        local ok, err = workers[i % #workers + 1]:run(change.code, key)
        assert.same({ true }, { ok, err })
        local own = i % #workers < 2 and { 1, 2 } or { 3, 4 }
        for _, w in ipairs(own) do
          assert.equal(change.after, (workers[w]:run([[return cache:get(...)]], key)))
        end
        each([[return cache:get(...)]], key, function(w)
          helper.wait_until(function() return workers[w]:run([[return cache:get(...)]], key) == change.after end,
            { timeout = 2, message = ("worker %d does not hear of it"):format(w) })
        end)
        gorge.run(function()
          local till = helper.now() + 2
          repeat
            gorge.sleep(0.005)
          until program:get(key) == change.after or helper.now() > till
          assert.equal(change.after, (program:get(key)))
        end)
        helper.wait_until(function()
          for h, host in ipairs { a, b, program } do
            if host:stats().messages - heard[h] < (change.messages or 1) then
              return false
            end
          end
          return true
        end, { timeout = 2, message = "not all of it was heard" })
      end
    end)
  end

  it("tells them of touch", function()
    local key = helper.unique_name "touched"
    assert.is_true((a:run([[return cache:set(..., 1, 60)]], key)))
    helper.wait_until(function() return b:run([[return cache:get(...)]], key) == 1 end, { timeout = 2 })
    assert.is_true((a:run([[return cache:touch(..., 0.3)]], key)))
    helper.sleep(0.4)
    each([[return cache:get(...)]], key, function(w)
      helper.wait_until(function() return workers[w]:run([[return cache:get(...)]], key) == nil end,
        { timeout = 2, message = ("worker %d does not hear of it"):format(w) })
    end)
  end)

  it("lets one host of all fill a key, and wakes those that wait by a message", function()
    for i = 1, 6 do -- as many partitions
      local key = helper.unique_name "storm"
      local batches = {}
      for n, host in ipairs { a, b } do
        host:run [[counts:delete "open loader" counts:delete "callers" counts:delete "loads"]]
        batches[n] = host:start(60, [[
          count "callers"
          local value, err, source = cache:fetch(..., 60, load_at_gate)
          return value, err, source, now()
        ]], key)
      end
      helper.wait_until(function() return a:counted "callers" + b:counted "callers" == 120 end, { message = "not all callers came" })
      a:run [[open "loader"]]
      b:run [[open "loader"]]
      local last = 0
      for _, batch in ipairs(batches) do
        for _, result in ipairs(batch:results(10)) do
          assert.same({ "value of " .. key, nil }, { result[1], result[2] or result.err })
          last = math.max(last, result[4])
        end
      end
      assert.equal(1, a:counted "loads" + b:counted "loads", "round " .. i)
      -- nobody had to look by itself, which is done every five seconds
      local loaded = math.max(a:counted "loaded", b:counted "loaded")
      assert.is_true(last - loaded < 2.5, ("the last one was answered %.2f s after the loader's end"):format(last - loaded))
    end
  end)

  it("answers fetch_many from all of its nodes at once", function()
    local name = helper.unique_name "many"
    local FETCH = [=[
      local name, n = ...
      local keys = {}
      local keys = {}
      for i = 1, n do keys[i] = name .. i end
      local runs, asked = 0, 0
      local values, errs, sources = cache:fetch_many(keys, 60, function(missing)
        runs, asked = runs + 1, asked + #missing
        local out = {}
        for _, key in ipairs(missing) do out[key] = "value of " .. key end
        return out
      end, "t")
      local by_source = { l2 = 0, fn = 0, l1 = 0, l0 = 0 }
      for _, key in ipairs(keys) do
        assert(values[key] == "value of " .. key, errs[key])
        by_source[sources[key]] = by_source[sources[key]] + 1
      end
      return runs, asked, by_source.fn, by_source.l2
    ]=]
    assert.same({ 1, KEYS, KEYS, 0 }, { a:run(FETCH, name, KEYS) })
    assert.same({ 0, 0, 0, KEYS }, { b:run(FETCH, name, KEYS) })
    assert.is_true((a:run [[return cache:invalidate_tags "t"]]))
    helper.wait_until(function() return b:run([[return cache:get(... .. 1)]], name) == nil end)
    assert.same({ 1, KEYS, KEYS, 0 }, { b:run(FETCH, name, KEYS) })
  end)

  it("knows tags in every partition, and all at once", function()
    local name = helper.unique_name "tagged"
    local SET = [[
      local name, n = ...
      for i = 1, n do assert(cache:set(name .. i, i, 60, { "all " .. name, "third " .. i % 3 .. name })) end
      return true
    ]]
    local LEFT = [[
      local name, n = ...
      local left = 0
      for i = 1, n do left = left + (cache:get(name .. i) and 1 or 0) end
      return left
    ]]
    assert.is_true((a:run(SET, name, 99)))
    assert.equal(99, b:run(LEFT, name, 99))
    assert.is_true((b:run([[return cache:invalidate_tags("third 1" .. ...)]], name)))
    assert.equal(66, b:run(LEFT, name, 99))
    helper.wait_until(function() return a:run(LEFT, name, 99) == 66 end)
    assert.is_true((a:run([[return cache:invalidate_tags("all " .. ...)]], name)))
    assert.equal(0, a:run(LEFT, name, 99))
    helper.wait_until(function() return b:run(LEFT, name, 99) == 0 end)
  end)

  it("that has forgotten its scripts is told them again, node by node", function()
    for _, master in ipairs(cluster:masters()) do
      assert.equal("OK", master:command("SCRIPT", "FLUSH"))
    end
    local name = helper.unique_name "scripts"
    for i = 1, 30 do
      assert.is_true((workers[i % #workers + 1]:run([[return cache:set(..., 1, 60, "t")]], name .. i)))
    end
  end)

  it("whose nodes forget one's subscription or connections is heard again within the bound", function()
    for round, kind in ipairs { "pubsub", "normal" } do
      for _, server in ipairs(cluster.servers) do
        server:command("CLIENT", "KILL", "TYPE", kind)
      end
      for i = 1, 10 do
        local key, value = "heard" .. i, round * 100 + i
        helper.wait_until(function() return (a:run([[return cache:set(...)]], key, value)) end)
        helper.wait_until(function() return b:run([[return cache:get(...)]], key) == value end, { timeout = 6 })
      end
    end
  end)

  it("shows its nodes in statistics and metrics", function()
    local masters, sum = {}, 0
    for _, master in ipairs(cluster:masters()) do
      masters["127.0.0.1:" .. master.port] = true
    end
    helper.wait_until(function() -- connections come with what is asked
      return workers[3]:run [[
        for i = 1, 24 do cache:set("of many partitions " .. i, 1, 60) end
        for _, node in ipairs(cache:stats().nodes) do if node.redis ~= "ready" then return false end end
        return true
      ]]
    end)
    local nodes, text = workers[3]:run [[return cache:stats().nodes, cache:prometheus()]]
    for _, n in ipairs(nodes) do
      assert.is_true(masters[n.node], n.node)
      masters[n.node] = nil
      assert.same({ "ready", "closed" }, { n.redis, n.breaker })
      sum = sum + n.partitions
      local labels = ('{namespace="%s",zone="%s",node="%s"}'):format(a.namespace, a.namespace, n.node)
      assert.matches("\ngorge_redis_node_partitions" .. labels .. " " .. n.partitions .. "\n", text, 1, true)
      assert.matches("\ngorge_redis_node_connected" .. labels .. " 1\n", text, 1, true)
    end
    assert.same({}, masters)
    assert.equal(PARTITIONS, sum)
    assert.same({ "ready", true }, { workers[3]:run [[local s = cache:stats() return s.redis, s.redis_error == nil]] })
  end)

  it("left nothing behind that anybody has to know of", function()
    for _, n in ipairs { a, b } do
      helper.wait_until(function() return n:stats().queued == 0 end, { message = "Redis is not told what it missed" })
      local stats = n:stats()
      assert.same({ 0, 0, 1 }, { stats.fills_running, stats.queued, stats.resyncs }) -- a new host reads no journal: one loss, of 64 partitions
      n:assert_clean_log()
    end
  end)
end)

describe("a plain Redis", function()
  it("that is taken for a cluster says that it is none, and nothing fails because of it", function()
    local redis = helper.redis()
    local cache = assert(gorge.new { namespace = helper.unique_name "plain", l1_size = "4m", redis = { cluster = { "127.0.0.1:" .. redis.port } } })
    for i = 1, 3 do
      assert.same({ i, nil, "fn" }, { cache:fetch("k" .. i, 60, function() return i end) })
      assert.same({ i, nil, "l0" }, { cache:fetch("k" .. i, 60, error) })
    end
    local ok, err = cache:set("k", 1, 60)
    assert.is_nil(ok)
    assert.matches("^gorge: set: done on this host, but not in Redis: ", err)
    helper.wait_until(function() return (cache:stats().redis_error or ""):find("cluster support disabled", 1, true) end,
      { message = function() return "redis_error is " .. tostring(cache:stats().redis_error) end })
    cache:close()
  end)
end)
