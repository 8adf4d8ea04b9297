-- SPDX-License-Identifier: MIT
-- Reloads (HUP): no request is lost, L1 stays warm, old workers go soon, nothing grows.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local RELOADS = 12

local function count_lines(path)
  local text, n = helper.read_file(path) or "", 0
  for _ in text:gmatch "\n" do
    n = n + 1
  end
  return n
end

local function count_entries(dir)
  local _, list = process.run { "ls", dir }
  local n = 0
  for _ in list:gmatch "[^\n]+" do
    n = n + 1
  end
  return n
end

--- What a process holds. Memory that the allocator takes is another matter.
local function holdings(pid)
  local zones = 0
  for line in (helper.read_file(("/proc/%d/maps"):format(pid)) or ""):gmatch "[^\n]+" do
    zones = zones + (line:find "memfd" and 1 or 0)
  end
  return {
    fds = count_entries(("/proc/%d/fd"):format(pid)),
    threads = count_entries(("/proc/%d/task"):format(pid)),
    zones = zones,
    maps = count_lines(("/proc/%d/maps"):format(pid)),
  }
end

--- Uses every worker so that it has opened what it ever opens.
local function use(n)
  for id = 0, 1 do
    local worker = n:worker(id)
    worker:run [[
      cache:fetch("warm", 600, load)
      cache:fetch("worker " .. ngx.worker.pid(), 600, load)
      cache:set("k", 1, 600)
    ]]
    worker:close()
  end
end

--- Whether the master waits for the next signal: until then it may have sockets to workers that have ended.
local function is_idle(master)
  local status = helper.read_file(("/proc/%d/status"):format(master))
  return #process.children(master) == 2 and status:find "State:%s+S" and status:find "SigPnd:%s+0+\n" and status:find "ShdPnd:%s+0+\n"
end

local function settled(n)
  n.nginx:wait_drained(5)
  helper.wait_until(function() return is_idle(n.nginx.pid) end, { message = "the master does not come to rest" })
  use(n)
  -- connections of the spec that are closed, listeners of doorbells that have been found
  local before
  return helper.wait_until(function()
    local now = { master = holdings(n.nginx.pid), workers = {} }
    for i, pid in ipairs(n:worker_pids()) do
      now.workers[i] = holdings(pid)
    end
    local same = before and now.master.fds == before.master.fds and now.workers[1].fds == before.workers[1].fds
      and now.workers[2].fds == before.workers[2].fds
    before = now
    return same and now
  end, { interval = 0.1 })
end

-- A leak in the master costs something with each reload, and workers inherit it. Which worker has the subscriber's connections may change.
local function assert_same_holdings(before, now)
  assert.equal(1, now.zones)
  assert.equal(before.threads, now.threads)
  assert.is_true(now.fds <= before.fds + 5, ("fds grew from %d to %d"):format(before.fds, now.fds))
  -- the Lua allocator maps memory as it needs it
  assert.is_true(now.maps <= before.maps + RELOADS - 2, ("mappings grew from %d to %d"):format(before.maps, now.maps))
end

local function assert_no_growth(first, last)
  assert.equal(first.master.fds, last.master.fds)
  assert_same_holdings(first.master, last.master)
  for i, worker in ipairs(last.workers) do
    assert_same_holdings(first.workers[i], worker)
  end
end

local function warm_specs(start)
  it("keeps what was filled before it, without a run of the loader", function()
    local n = start()
    n:run [[
      for i = 1, 200 do
        cache:fetch("key " .. i, 600, load, { "tag " .. i % 10 })
      end
      cache:set("nothing", nil, 600)
      cache:set("table", { deep = { list = { 1, 2, 3 } } }, 600)
    ]]
    for _ = 1, 3 do
      n.nginx:reload()
      n.nginx:wait_drained(5)
      for id = 0, 1 do
        local wrong = n:worker(id):run [[
          for i = 1, 200 do
            local value, err, source = cache:fetch("key " .. i, 600, load, { "tag " .. i % 10 })
            if value ~= "value of key " .. i or source ~= "l1" and source ~= "l0" then
              return ("key %d: %s, %s, from %s"):format(i, tostring(value), tostring(err), tostring(source))
            end
          end
          local value, err, source = cache:get "nothing"
          if value ~= nil or err or source ~= "l1" and source ~= "l0" then
            return "nothing: " .. tostring(err) .. " from " .. tostring(source)
          end
          value = cache:get "table"
          return value.deep.list[3] ~= 3 and "table" or nil
        ]]
        assert.is_nil(wrong)
      end
    end
    assert.equal(200, n:counted "loads")
    -- and what it kept can still be forgotten
    n:run [[cache:invalidate_tags "tag 3"]]
    assert.is_nil(n:run [[return cache:peek "key 3"]])
    assert.is_table(n:run [[return cache:peek "key 4"]])
  end)

  it("loses no request, however often, and nothing grows", function()
    local n = start()
    n.nginx:reload()
    local first = settled(n)
    local reloads, slowest_drain, state, since = 0, 0, "drained", nil
    local responses = helper.http.load {
      concurrency = 12,
      timeout = 60,
      request = function(i)
        return {
          port = n.nginx.port, uri = "/run", method = "POST",
          body = ([[
            local value, err = cache:fetch("key %d", 0.05, load)
            ngx.sleep(0.005)
            return value or err
          ]]):format(i % 30),
        }
      end,
      -- a reload as soon as the workers of the one before have gone
      tick = function()
        if state == "drained" then
          if reloads == RELOADS then
            return true
          end
          state, since, reloads = "reloading", helper.now(), reloads + 1
          n.nginx.old_workers = {}
          for _, pid in ipairs(process.children(n.nginx.pid)) do
            n.nginx.old_workers[pid] = true
          end
          process.kill(n.nginx.pid, process.SIGHUP)
        else
          for pid in pairs(n.nginx.old_workers) do
            if process.exists(pid) then
              return
            end
          end
          slowest_drain = math.max(slowest_drain, helper.now() - since)
          state = "drained"
        end
      end,
    }
    for _, response in ipairs(responses) do
      assert.equal(200, response.status or response.err)
      assert.matches('"value of key %d+"', response.body)
    end
    assert.equal(RELOADS, reloads)
    assert.is_true(#responses > 200, #responses .. " responses")
    -- A connection to Redis that kept one would do so for 15 s.
    assert.is_true(slowest_drain < 10, ("old workers went after %.2f s"):format(slowest_drain))
    local last = settled(n)
    assert_no_growth(first, last)
    assert.equal(2, n:stats().workers)
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end)

  it("lets a fill that is under way end, and who comes after it waits for that", function()
    local n = start()
    local before = n:start(20, [[count "callers" return cache:fetch("slow", 60, load_at_gate)]])
    n:wait_count("callers", 20)
    local old = n:worker_pids()
    n.nginx:reload()
    local after = n:start(20, [[count "callers" return cache:fetch("slow", 60, load_at_gate)]])
    n:wait_count("callers", 40)
    n:run [[open "loader"]]
    for _, batch in ipairs { before, after } do
      for _, result in ipairs(batch:results(5)) do
        assert.is_nil(result.err)
        assert.same({ "value of slow", nil }, { result[1], result[2] })
      end
    end
    assert.equal(1, n:counted "loads")
    n.nginx:wait_drained(3)
    for _, pid in ipairs(old) do
      assert.is_false(process.exists(pid))
    end
  end)
end

describe("a reload", function()
  describe("without Redis", function()
    warm_specs(function() return node.start { options = { l1_size = helper.ROOMY } } end)
  end)

  describe("with Redis", function()
    warm_specs(function()
      local n = node.start { options = { l1_size = helper.ROOMY, redis = node.patient(helper.redis()) } }
      node.wait_linked { n }
      return n
    end)
  end)

  it("ends old workers soon although Redis stands still", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = redis.url } }
    for _ = 1, 2 do
      n:run [[cache:set("warm", 1, 600)]]
      use(n)
      redis:pause()
      n.nginx:reload()
      n.nginx:wait_drained(5)
      assert.equal(1, n:run [[return cache:get "warm"]])
      redis:resume()
      helper.wait_until(function() return n:run [[return cache:set("k", 2, 600)]] end, { timeout = 5 })
    end
    n:assert_clean_log()
  end)

  -- An idle connection is given up then; that is no failure, and nobody does without Redis for it.
  it("lets an old worker use Redis for as long as its requests last", function()
    local n = node.start { options = { redis = node.patient(helper.redis()) } }
    use(n)
    local before = n:stats().l2_errors
    local batch = n:start(4, [[
      count "begun"
      while not ngx.worker.exiting() do
        ngx.sleep(0.01)
      end
      for i = 1, 150 do -- long enough to be found idle more than once
        ngx.sleep(0.01)
        local ok, err = cache:set("key " .. ngx.worker.pid(), i, 60)
        if not ok then
          return i .. ": " .. err
        end
      end
      return "done"
    ]])
    n:wait_count("begun", 4)
    n.nginx:reload()
    for _, result in ipairs(batch:results(10)) do
      assert.same({ "done" }, { result[1] or result.err })
    end
    assert.equal(before, n:stats().l2_errors)
    n.nginx:wait_drained(5)
  end)

  it("keeps the zone when its size stays, and is refused by name when it changes", function()
    local n = node.start { options = { namespace = "sized", l1_size = "4m" } }
    n:run [[cache:set("k", 1, 600)]]
    helper.wait_until(function() return #n:worker_pids() == 2 end)
    local pids = n:worker_pids()
    n.nginx:configure(node.nginx_options { options = { namespace = "sized", l1_size = "8m" } })
    process.kill(n.nginx.pid, process.SIGHUP)
    local message = n.nginx:wait_log "gorge: zone 'sized' exists with a size of %d+ bytes, asked for %d+"
    assert.matches("4194304 bytes, asked for 8388608", message)
    -- the configuration is refused, the old workers go on
    assert.same(pids, n:worker_pids())
    assert.equal(1, n:run [[return cache:get "k"]])
    -- with the old size again a reload works
    n.nginx:configure(node.nginx_options { options = { namespace = "sized", l1_size = "4096k" } })
    n.nginx:reload()
    n.nginx:wait_drained(5)
    assert.equal(1, n:run [[return cache:get "k"]])
  end)
end)
