-- SPDX-License-Identifier: MIT
-- What a worker does when no request waits for it: one timer for all jobs of a cache, a light thread for each. The timer ends with the last job.

local semaphore = require "ngx.semaphore"
local C = require "gorge.ffi.lib"

local exiting = ngx.worker.exiting
local get_phase = ngx.get_phase

local MOST_RUNNING = 64
local MOST_WAITING = 1024
local START_MS = 1000 -- a timer that has not begun by then never will: nginx drops those beyond lua_max_running_timers
local LOOK_AROUND = 0.25 -- seconds: how soon it notices that the cache was closed

local _M = {}

---Something to be done in the background.
---@class gorge.Job
---@field run fun(job: gorge.Job)
---@field drop fun(job: gorge.Job) it will not be run
---@field give_up fun(job: gorge.Job) its time is over
---@field cut_off fun(job: gorge.Job) its coroutine was ended
---@field limit_ms number how long it may run

local function jobs_of(engine)
  local jobs = engine.jobs
  if not jobs then
    jobs = { waiting = {}, running = {}, wake = semaphore.new(0), active = false }
    engine.jobs = jobs
  end
  return jobs
end

local function wake(jobs)
  if jobs.wake:count() < 1 then
    jobs.wake:post(1)
  end
end

local function drop_waiting(jobs)
  local waiting = jobs.waiting
  jobs.waiting = {}
  for i = 1, #waiting do
    waiting[i]:drop()
  end
end

local function work(jobs, job)
  local ok, err = pcall(job.run, job)
  if not ok then
    ngx.log(ngx.ERR, "gorge: in the background: ", err)
  end
  job.done = true
  wake(jobs)
end

local function start_waiting(jobs)
  while #jobs.waiting > 0 and #jobs.running < MOST_RUNNING do
    local job = table.remove(jobs.waiting, 1)
    job.deadline_ms = C.gorge_now_ms() + job.limit_ms
    jobs.running[#jobs.running + 1] = job
    job.thread = ngx.thread.spawn(work, jobs, job)
  end
end

---Ends the threads of jobs that are over, or should be.
---@return number seconds until the next one should be
local function sift(engine, jobs)
  local rest, now_ms = {}, C.gorge_now_ms()
  local wait_ms = LOOK_AROUND * 1000
  for _, job in ipairs(jobs.running) do
    if job.done then
      ngx.thread.wait(job.thread)
    elseif engine.closed or now_ms >= job.deadline_ms then
      local killed = ngx.thread.kill(job.thread) -- one with a subrequest under way cannot be
      if not job.gave_up then
        job.gave_up = true
        job:give_up()
      end
      if killed then
        job:cut_off()
      end
      if not killed and not engine.closed then
        job.deadline_ms = now_ms + job.limit_ms
        rest[#rest + 1] = job
      end
    else
      wait_ms = math.min(wait_ms, math.max(1, job.deadline_ms - now_ms))
      rest[#rest + 1] = job
    end
  end
  jobs.running = rest
  return wait_ms / 1000
end

local function run(premature, engine, jobs)
  jobs.asked_ms, jobs.active = nil, true
  while not premature do
    if engine.closed or exiting() then
      drop_waiting(jobs)
    end
    start_waiting(jobs)
    local wait = sift(engine, jobs)
    if #jobs.running == 0 and #jobs.waiting == 0 then
      break
    end
    jobs.wake:wait(wait)
  end
  drop_waiting(jobs)
  jobs.active = false
end

---@param engine gorge.Engine
---@param job gorge.Job
---@return boolean|nil true: it will be run, or dropped
---@return string|nil why not
function _M.add(engine, job)
  if engine.inline or get_phase() == "init" or get_phase() == "exit_worker" then
    return nil, "the phase '" .. get_phase() .. "' has no timers"
  elseif exiting() then
    return nil, "the worker is exiting"
  end
  local jobs = jobs_of(engine)
  local now_ms = C.gorge_now_ms()
  local lost = not jobs.active and jobs.asked_ms and now_ms - jobs.asked_ms > START_MS
  if lost then
    drop_waiting(jobs)
  end
  if #jobs.waiting >= MOST_WAITING then
    return nil, "too many values wait to be refreshed"
  end
  if not jobs.active and (lost or not jobs.asked_ms) then
    local called, made, err = pcall(ngx.timer.at, 0, run, engine, jobs)
    if not called or not made then
      return nil, "no timer: " .. tostring(called and err or made)
    end
    jobs.asked_ms = now_ms
  end
  jobs.waiting[#jobs.waiting + 1] = job
  if jobs.active then
    wake(jobs)
  end
  if lost then
    return true, "no timer: lua_max_running_timers are not enough"
  end
  return true
end

function _M.close(engine)
  if engine.jobs then
    wake(engine.jobs)
  end
end

return _M
