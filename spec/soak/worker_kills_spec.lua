-- SPDX-License-Identifier: MIT
-- Workers of nginx killed under load, over and over: GORGE_SOAK_KILLS of them (10,000), each costs the requests it had and nothing else.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local KILLS = tonumber(os.getenv "GORGE_SOAK_KILLS") or 10000
local CONCURRENCY = 20
local BATCH_S = 10
local PAUSE_S = 0.05

local REQUEST = [[return require("spec.soak.exercise")(cache)]]

--- Kills a worker of one of the nodes when all of its workers are there. Returns whether it did.
local function kill_one(nodes)
  local n = nodes[math.random(#nodes)]
  local pids = n:worker_pids()
  if #pids < 2 then
    return false
  end
  process.kill(pids[math.random(#pids)], process.SIGKILL)
  return true
end

--- Load for some seconds, beside it at most `left` kills. Returns the number of kills, requests answered, and requests lost.
local function run_batch(nodes, left)
  local kills, next_kill = 0, helper.now()
  local ends = helper.now() + BATCH_S
  local responses = helper.http.load {
    concurrency = CONCURRENCY,
    timeout = BATCH_S + 20,
    request = function(i)
      return { port = nodes[i % #nodes + 1].nginx.port, uri = "/run", method = "POST", body = REQUEST }
    end,
    tick = function()
      local now = helper.now()
      if now >= next_kill and kills < left and kill_one(nodes) then
        kills = kills + 1
        next_kill = now + PAUSE_S * math.random()
      end
      return now >= ends or kills >= left
    end,
  }
  local lost = 0
  for _, response in ipairs(responses) do
    if response.err then
      assert.matches("^closed", response.err) -- by the death of the worker, not for want of an answer
      lost = lost + 1
    else
      assert.equal(200, response.status, response.body)
    end
  end
  assert.is_true(lost <= CONCURRENCY * kills, lost .. " requests lost in " .. kills .. " kills")
  return kills, #responses - lost, lost
end

local function soak(nodes)
  local kills, answered, lost, started = 0, 0, 0, helper.now()
  while kills < KILLS do
    local more, fine, gone = run_batch(nodes, KILLS - kills)
    assert.is_true(more > 0, "workers do not come back")
    kills, answered, lost = kills + more, answered + fine, lost + gone
    print(("%d kills, %d requests answered, %d lost with their worker, %d s")
      :format(kills, answered, lost, helper.now() - started))
  end
  for _, n in ipairs(nodes) do
    helper.wait_until(function() return #n:worker_pids() == 2 end)
    helper.wait_until(function() return n:stats().fills_running == 0 end, { message = "a fill is left" })
    for _ = 1, 200 do
      n:run(REQUEST)
    end
    assert.equal(2, n:stats().workers)
  end
  assert.is_true(answered > kills, answered .. " requests answered")
end

describe("workers that are killed under load", function()
  it("cost their own requests and nothing else, without Redis", function()
    soak { node.start { options = { lock_ttl = 1.5, l1_size = "4m" } } }
  end)

  it("cost their own requests and nothing else, with Redis and another node", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { lock_ttl = 1.5, l1_size = "4m" } })
    soak { a, b }
  end)
end)
