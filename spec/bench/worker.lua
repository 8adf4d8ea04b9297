-- SPDX-License-Identifier: MIT
--- Inside nginx: takes the driver's requests, prepares a row and measures one side of it at a time.
local cjson = require "cjson"
local clock = require "spec.bench.clock"
local loader = require "spec.bench.loader"
local rows = require "spec.bench.rows"
local subjects = require "spec.bench.subjects"
local tasks = require "spec.bench.tasks"
local traces = require "spec.bench.traces"
local workload = require "spec.bench.workload"

local _M = {}

local LEAD = 0.003 -- seconds from the arrival of the last worker to the common start
local QUICK_KEYS = 20000

local row
local bench = {} -- what tasks need to know; see prepare

---@param id string
---@param redis table|nil option of gorge.new
function _M.init(id, redis)
  row = rows.by_id[id]
  subjects.create(row, redis)
end

local function scaled(n, quick)
  return quick and not row.whole and math.min(n, QUICK_KEYS) or n
end

local function fill(side, keys, n)
  local step = 1000
  for first = 1, n, step do
    side.set(keys, first, math.min(first + step - 1, n))
  end
end

local handlers = {}

--- Makes keys and values, opens the sides, stores what is to be there. One worker fills what all share.
function handlers.prepare(request)
  bench.row, bench.quick, bench.runs = row, request.quick, request.runs
  bench.cache, bench.redis = subjects.cache, request.redis
  bench.calls = clock.counter()
  bench.worker = ngx.worker.id()
  bench.load = loader.new(row.value)
  bench.keys = workload.keys(scaled(row.keys, request.quick))
  bench.draws = workload.draws(row.draw, bench.keys, bench.worker)
  bench.sides = {}
  for i, side in ipairs(row.sides) do
    if not side.module or request.modules[side.module] then
      bench.sides[i] = tasks.open(bench, side, loader.counted(bench.load, bench.calls))
    end
  end
  if request.fill then
    for _, side in pairs(bench.sides) do
      if side.prepare then
        side.prepare()
      elseif side.set then
        fill(side, bench.keys, math.min(row.fill or #bench.keys, #bench.keys))
      end
    end
  end
  return {}
end

--- A first round of each loop, so that what happens once has happened; then everything is compiled anew: how is not for the filling to decide.
function handlers.settle()
  for _, side in pairs(bench.sides) do
    if side.settle then
      side.settle()
    end
  end
  jit.flush()
  return {}
end

--- Which layer answers the keys that a side asks for, of the first 1,000 draws.
function handlers.sources()
  local count = {}
  for i = 1, math.min(1000, #bench.draws) do
    local _, _, source = bench.cache:fetch(bench.draws[i], 600, bench.load)
    count[source] = (count[source] or 0) + 1
  end
  return count
end

-- All workers start at one instant.
local function meet(request)
  if request.workers == 1 then
    return
  end
  local dict, token = ngx.shared.bench, request.token
  if dict:incr(token, 1, 0) == request.workers then
    dict:set(token .. ":start", clock.now() + LEAD)
  end
  local deadline = clock.now() + 30
  while not dict:get(token .. ":start") do
    assert(clock.now() < deadline, "the other worker did not come")
    ngx.sleep(0.001)
  end
  local start = dict:get(token .. ":start")
  repeat until clock.now() >= start
end

function handlers.sample(request)
  local side = bench.sides[request.side]
  bench.calls[0] = 0
  collectgarbage()
  meet(request)
  if side.watched then
    traces.on()
  end
  local cpu = clock.cpu()
  local result = side.run(request)
  result.cpu = clock.cpu() - cpu
  traces.off()
  result.loads = result.loads or tonumber(bench.calls[0])
  result.traces = traces.take()
  return result
end

function _M.serve()
  ngx.req.read_body()
  local request = cjson.decode(ngx.req.get_body_data())
  local ok, result = xpcall(handlers[request.what], debug.traceback, request)
  ngx.status = ok and 200 or 500
  ngx.print(ok and cjson.encode(result) or result)
end

--- A handler that answers from L2: what wrk asks.
---@param index integer side
function _M.handle(index)
  return bench.sides[index].handle()
end

jit.off(handlers.sample)
jit.off(meet)

return _M
