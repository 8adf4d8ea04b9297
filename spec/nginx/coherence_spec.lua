-- SPDX-License-Identifier: MIT
-- What one worker has written or invalidated is seen by the next read of every worker of the host, without waiting; by other nodes soon.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local ROUNDS = 200
local WORKERS = 3

--- Reads until the answer comes from L0; returns the value.
local WARM = [[
  local key = ...
  local value, source
  for _ = 1, 3 do
    value, _, source = cache:get(key)
  end
  return value, source
]]

local READ = [[return cache:get(...)]]

-- What is done to the value in one round, and what a read finds afterwards.
local CHANGES = {
  { name = "set", code = [[local key, round = ... return cache:set(key, round, 60, "tag of " .. key)]], after = function(round) return round end },
  { name = "delete", code = [[return cache:delete((...))]] },
  { name = "invalidate_tags", code = [[return cache:invalidate_tags("another", "tag of " .. ...)]] },
}

local function rounds(n)
  local workers, key = {}, "k"
  for id = 0, WORKERS - 1 do
    workers[id + 1] = n:worker(id)
  end
  for round = 1, ROUNDS do
    local change = CHANGES[round % #CHANGES + 1]
    local writer = workers[round % WORKERS + 1]
    assert.is_true((workers[1]:run([[return cache:set(..., -1, 60, "tag of " .. ...)]], key)))
    for _, worker in ipairs(workers) do
      local value, source = worker:run(WARM, key)
      assert.same({ -1, "l0" }, { value, source })
    end
    local ok, err = writer:run(change.code, key, round)
    assert.same({ true }, { ok, err })
    for id, worker in ipairs(workers) do
      local value = worker:run(READ, key)
      local expected = change.after and change.after(round) or nil
      if value ~= expected then
        error(("round %d, %s: worker %d reads %s, not %s"):format(round, change.name, id - 1, tostring(value), tostring(expected)))
      end
    end
  end
end

-- One writer and readers in all workers at full speed. The "database" is a number that only grows; what was committed before a read began
-- must be in what it returns, and no read may return less than the one before it.
local WRITER = [[
  local how, seconds, writes, reads = ...
  local i, till = 0, now() + seconds
  while now() < till or (now() < till + 20 and (i < writes or counted "reads" < reads)) do -- a busy machine takes longer for as many
    i = i + 1
    counts:set("database", i)
    local ok, err
    if how == "set" then
      ok, err = cache:set("k", i, 60)
    elseif how == "delete" then
      ok, err = cache:delete "k"
    else
      ok, err = cache:invalidate_tags "t"
    end
    if not ok then
      return nil, err
    end
    counts:set("committed", i)
    ngx.sleep(0.002)
  end
  counts:set("over", true)
  return i
]]

local READER = [[
  local function load()
    local value = counts:get "database"
    count "loads"
    ngx.sleep(0.001) -- room for an invalidation
    return value
  end
  local reads, last = 0, 0
  while not counts:get "over" do
    local committed = counted "committed"
    local value, err = cache:fetch("k", 60, load, "t")
    if err then
      return nil, err
    elseif value < committed then
      return nil, "read " .. value .. " when " .. committed .. " was committed"
    elseif value < last then
      return nil, "read " .. value .. " after " .. last
    end
    last, reads = value, reads + 1
    if reads % 5 == 0 then
      counts:incr("reads", 5)
      ngx.sleep(0.001)
    end
  end
  return true
]]

--- With many readers there is always one that supersedes an old fill, with few an old fill may end undisturbed.
local function race(n, how, reader_count)
  n:run [[counts:set("database", 0) counts:set("committed", 0) counts:set("reads", 0) counts:delete "over" cache:delete "k"]]
  local readers = n:start(reader_count, READER)
  local writer = n:start(1, WRITER, how, 0.7, 21, 101)
  local written = writer:results()[1]
  assert.is_nil(written.err or written[2])
  for _, result in ipairs(readers:results()) do
    assert.is_nil(result.err or result[2])
  end
  assert.is_true(written[1] > 20, written[1] .. " writes")
  assert.is_true(n:counted "reads" > 100, n:counted "reads" .. " reads")
end

local function host_specs(start)
  it("a change is seen by the next read of every worker", function()
    local n = start()
    rounds(n)
    n:assert_clean_log()
  end)

  for _, how in ipairs { "set", "delete", "invalidate_tags" } do
    it("no read of any worker goes back behind a " .. how .. " that had returned", function()
      local n = start()
      race(n, how, 9)
      race(n, how, 2)
      n:assert_clean_log()
    end)
  end
end

-- Between nodes: what `a` has written, `b` reads within freshness_bound, whoever stands still meanwhile, and for ever after. The database is a file.
local FRESHNESS_BOUND = 0.25

local NODE_WRITER = [[
  local key, how, path, seconds, writes = ...
  local i, till = 0, now() + seconds
  while now() < till or i < writes do
    i = i + 1
    write_file(path .. ".new", tostring(i))
    assert(os.rename(path .. ".new", path))
    local ok, err
    if how == "set" then
      ok, err = cache:set(key, i, 60, "t")
    elseif how == "delete" then
      ok, err = cache:delete(key)
    else
      ok, err = cache:invalidate_tags "t"
    end
    if not ok then
      return nil, err
    end
    write_file(path .. ".committed", tostring(i))
    ngx.sleep(i % 10 == 0 and 0.05 or 0.001)
  end
  write_file(path .. ".over", "")
  return i
]]

-- Remembers what had been committed a while ago: that much must be in what is read now.
local NODE_READER = [[
  local key, path, bound = ...
  local function load()
    local value = tonumber(read_file(path))
    ngx.sleep(0.001)
    return value
  end
  local seen, first, reads, last = {}, 1, 0, 0
  local known = 0
  repeat
    local over = read_file(path .. ".over")
    local committed = tonumber(read_file(path .. ".committed") or 0) or 0
    local at = clock() -- after it: so much had been committed by then
    seen[#seen + 1] = { at = at, committed = committed }
    while seen[first].at < at - bound do
      known = seen[first].committed
      first = first + 1
    end
    local value, err = cache:fetch(key, 60, load, "t")
    if err then
      return nil, err
    elseif value < known then
      return nil, "read " .. value .. " when " .. known .. " had been committed for " .. bound .. " s"
    elseif value < last then
      return nil, "read " .. value .. " after " .. last
    end
    last, reads = value, reads + 1
    ngx.sleep(0.001)
  until over
  return reads, nil, last
]]

local function race_of_nodes(a, b, how)
  local key, path = helper.unique_name "raced", helper.temp_dir() .. "/database"
  helper.write_file(path, "0")
  local readers = { b:start(6, NODE_READER, key, path, FRESHNESS_BOUND), a:start(3, NODE_READER, key, path, FRESHNESS_BOUND) }
  local written = a:start(1, NODE_WRITER, key, how, path, 1.2, 21):results()[1]
  assert.is_nil(written.err or written[2])
  assert.is_true(written[1] > 20, written[1] .. " writes")
  for _, batch in ipairs(readers) do
    for _, result in ipairs(batch:results()) do
      assert.is_nil(result.err or result[2])
    end
  end
  -- nothing that was read meanwhile may have outlived its invalidation
  for _, n in ipairs { a, b } do
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function()
        return written[1] == worker:run([[
          local key, path = ...
          return cache:fetch(key, 60, function() return tonumber(read_file(path)) end, "t")
        ]], key, path)
      end, { message = "an old value stayed" })
    end
  end
end

describe("the workers of a host", function()
  describe("without Redis:", function()
    local n
    host_specs(function()
      n = n or node.start { workers = WORKERS, options = {} }
      return n
    end)
  end)

  describe("with Redis:", function()
    local n
    host_specs(function()
      n = n or node.start { workers = WORKERS, options = { redis = node.patient(helper.redis()) } }
      node.wait_linked { n }
      return n
    end)
  end)
end)

describe("two nodes", function()
  local function pair(freshness_bound)
    local redis = helper.redis()
    return node.pair(redis, { options = { redis = node.patient(redis), freshness_bound = freshness_bound } })
  end

  local a, b
  for _, change in ipairs(CHANGES) do
    it("see each other's " .. change.name .. " within a moment", function()
      if not a then
        a, b = pair()
      end
      local reader, times = b:worker(1), {}
      for round = 1, 60 do
        assert.is_true((a:run [[return cache:set("k", -1, 60, "tag of k")]]))
        helper.wait_until(function() return reader:run(READ, "k") == -1 end, { interval = 0.001 })
        assert.is_true((a:run(change.code, "k", round)))
        local since = helper.now()
        helper.wait_until(function() return reader:run(READ, "k") == (change.after and change.after(round)) end,
          { timeout = 3, interval = 0.001, message = "an old value stayed" }) -- freshness_bound is 5
        times[round] = helper.now() - since
      end
      table.sort(times) -- a busy machine may hold up some
      assert.is_true(times[30] < 0.25, ("half of them took %.3f s and more"):format(times[30]))
    end)
  end

  local c, d
  for _, how in ipairs { "set", "delete", "invalidate_tags" } do
    it("never keep a value from before a " .. how .. " of the other", function()
      if not c then
        c, d = pair(FRESHNESS_BOUND)
      end
      race_of_nodes(c, d, how)
      c:assert_clean_log()
      d:assert_clean_log()
    end)
  end
end)
