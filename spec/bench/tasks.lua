-- SPDX-License-Identifier: MIT
--- What a side does while it is measured. Runs inside nginx.
---
--- A task is opened once in each worker and returns `run(request)`, which returns `ops`, `good`, `seconds` and what else the row's metric needs;
--- `set` or `prepare` stores what is to be there before.
local clock = require "spec.bench.clock"
local memory = require "spec.bench.memory"
local redis = require "spec.bench.redis"
local storm = require "spec.bench.storm"
local subjects = require "spec.bench.subjects"
local tags = require "spec.bench.tags"
local workload = require "spec.bench.workload"

local now = clock.now

local _M = {}

local PIECE = 5000 -- calls between two looks at the clock
local SETTLE = 1000 -- calls before everything that is watched

---@param chunk fun(keys: string[], first: integer, last: integer): integer
---@param keys string[]
---@param at integer where the last run stopped
---@param seconds number
local function over_draws(chunk, keys, at, seconds)
  local n, ops, good = #keys, 0, 0
  local deadline, started = now() + seconds, clock.own()
  repeat
    local first = at % n + 1
    local last = math.min(first + PIECE - 1, n)
    good = good + chunk(keys, first, last)
    ops = ops + last - first + 1
    at = last
    ngx.update_time()
  until now() >= deadline
  return { ops = ops, good = good, seconds = clock.own() - started }, at
end

-- Keys are made between two pieces; that time does not count.
local function over_fresh(chunk, seconds)
  local deadline, ops, good, spent = now() + seconds, 0, 0, 0
  repeat
    local keys = workload.fresh(PIECE)
    ngx.update_time()
    local started = clock.own()
    good = good + chunk(keys, 1, PIECE)
    spent = spent + clock.own() - started
    ops = ops + PIECE
  until now() >= deadline
  return { ops = ops, good = good, seconds = spent }
end

-- fetch, set, mix: a loop over the draws.
local function loop(bench, side, load)
  local subject = subjects.open(side.subject, load)
  local chunk = subject[side.task or bench.row.task]
  local at = 0
  return {
    watched = true,
    set = subject.set,
    settle = function()
      local keys = bench.row.draw == "fresh" and workload.fresh(SETTLE) or bench.draws
      chunk(keys, 1, math.min(SETTLE, #keys))
    end,
    run = function(request)
      if bench.row.draw == "fresh" then
        return over_fresh(chunk, request.seconds)
      end
      local result
      result, at = over_draws(chunk, bench.draws, at, request.seconds)
      return result
    end,
  }
end

local openers = {
  fetch = loop, set = loop, mix = loop,
  memory = memory.open, storm = storm.open, tag = tags.open,
  in_flight = redis.open, one_by_one = redis.open, http = redis.open,
}

---@param bench table what worker.lua has prepared
---@param side gorge.bench.Side
---@param load fun(key: string): any counts its calls
---@return table
function _M.open(bench, side, load)
  return openers[side.task or bench.row.task](bench, side, load)
end

return _M
