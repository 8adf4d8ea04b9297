-- SPDX-License-Identifier: MIT
-- fetch_many: fetch for several keys, with one round to Redis for all of them and one run of the loader for those that are missing. What L0 and L1 have is
-- looked for here, the rest stands in many_fill.lua.

local C = require "gorge.ffi.lib"
local table_new = require "table.new"
local check = require "gorge.arguments"
local has_gap = require("gorge.check").has_gap
local fetch = require "gorge.fetch"
local look = require "gorge.look"
local l0 = require "gorge.ffi.l0"
local load = require "gorge.load"
local Many = require "gorge.many_fill"
local options = require "gorge.options"
local refresh = require "gorge.refresh"
local stale = require "gorge.stale"
local text = require "gorge.text"

local look_l0, look_l1 = l0.look, look.look
local parse_call = options.parse_call
local type = type

local HIT = tonumber(C.GORGE_HIT)
local SPACE = tonumber(C.GORGE_SPACE)
local DUE = tonumber(C.GORGE_DUE)
local CLOSED = tonumber(C.GORGE_ERR_CLOSED)
local REFRESH = tonumber(C.GORGE_FETCH_REFRESH)

local MAX_KEYS = 1000

local _M = {}

---What L0 and L1 have.
---@param many gorge.Many
---@return string[]|nil missing nil: the cache was closed
local function look_for(many, keys)
  local cache = many.cache
  local view = cache.view
  local values, errs, sources = many.values, many.errs, many.sources
  local seen, missing = nil, {}
  for i = 1, #keys do
    local key = keys[i]
    if sources[key] == nil and errs[key] == nil and not (seen and seen[key]) then
      local hit, value = look_l0(cache, key)
      if hit then
        values[key], sources[key] = value, "l0"
      else
        local problem = check.key_problem(key)
        if problem then
          errs[key] = problem
        else
          local status = SPACE
          if view.cache ~= nil then
            status, value = look_l1(cache, view, key)
          end
          local due
          if status == SPACE or status == DUE then
            status, value, due = look.from_l1(cache, key, status)
          end
          if status == HIT then
            values[key], sources[key] = value, "l1"
            if due then
              many.due[#many.due + 1] = key
            end
          elseif status == CLOSED then
            return nil
          else
            seen = seen or {}
            seen[key] = true
            missing[#missing + 1] = key
          end
        end
      end
    end
  end
  return missing
end

---Fetches what L0 and L1 do not have.
---@param many gorge.Many
---@return boolean done false: the cache was closed
local function fill(many, missing)
  for round = 1, fetch.MAX_ROUNDS do
    if round > 1 then -- what others have filled is there now
      missing = look_for(many, missing)
      if not missing then
        return false
      end
    end
    missing = many:round(missing)
    if #missing == 0 then
      return true
    end
  end
  local loads = {}
  for i = 1, #missing do -- others keep filling without a result that can be shared
    loads[i] = { call = setmetatable({ key = missing[i] }, many.call) }
  end
  many:load(loads)
  return true
end

---Values past their end instead of errors.
---@param many gorge.Many
local function take_stale(many)
  local values, errs, sources = many.values, many.errs, many.sources
  for key in pairs(many.failed) do
    if errs[key] ~= nil then
      local call = setmetatable({ key = key }, many.call)
      values[key], errs[key], sources[key] = stale.instead(many.cache, call, errs[key])
    end
  end
end

---@param keys any
---@param level integer as in error(), counted from the caller of this function
---@return string|nil problem too many of them
local function check_keys(keys, level)
  level = level + 1
  if type(keys) ~= "table" then
    error("gorge: keys must be an array of strings, got " .. text.describe(keys), level)
  elseif #keys == 0 and next(keys) ~= nil then
    error("gorge: keys must be an array of strings, got a table with other keys", level)
  elseif has_gap(keys) then
    error("gorge: keys must be an array without gaps, got nil in between", level)
  elseif #keys > MAX_KEYS then
    return "gorge: fetch_many takes at most " .. MAX_KEYS .. " keys, got " .. #keys
  end
  for i = 1, #keys do
    if type(keys[i]) ~= "string" then
      error("gorge: keys[" .. i .. "] must be a string, got " .. text.describe(keys[i]), level)
    end
  end
end

---@return gorge.Many
local function new_many(self, n)
  return setmetatable({ cache = self, values = table_new(0, n), errs = {}, sources = table_new(0, n), failed = {}, due = {} }, Many)
end

---The call's private copies of the values.
local function copy_values(values, clone)
  for key, value in pairs(values) do
    values[key] = clone(value)
  end
end

---Raises for arguments of wrong types.
---@param level integer as in error(), counted from the caller of this function
---@return string|nil problem nothing can be done
function _M.check(keys, ttl, fn, tags, opts, level)
  local problem = check_keys(keys, level + 1)
  check.ttl_ms(ttl, 1, level + 2)
  check.loader(fn, level + 2)
  check.tags(tags, level + 2)
  parse_call(opts, level + 1)
  return problem
end

---What is the same for all keys of a call.
local function new_call(self, engine, ttl, fn, tags, opts)
  local parsed = self.options
  local negative_ms, lock_ms, on_timeout, args, _, _, jitter, stale_ms, stale_ttl_ms = parse_call(opts)
  local call = {
    fn = fn,
    ttl_ms = check.ttl_ms(ttl, parsed.l1_ttl_ms),
    tags = check.tags(tags),
    negative_ms = negative_ms or parsed.negative_cache_ttl_ms,
    lock_ms = lock_ms or parsed.lock_ttl_ms,
    wait_ms = parsed.wait_timeout_ms,
    on_timeout = on_timeout or parsed.on_lock_timeout,
    args = args,
    jitter = jitter or parsed.expiration_jitter,
    stale_ms = stale_ms or parsed.stale_if_error_ms,
    stale_ttl_ms = stale_ttl_ms,
    engine = engine,
    deadline_ms = C.gorge_now_ms() + parsed.wait_timeout_ms,
  }
  call.__index = call
  return call
end

---Runs the loader once for what is due, as a round of its own.
---@param job gorge.Refresh
---@return any err of one of the keys
local function fill_due(job)
  local self, call = job.cache, job.call
  local many = new_many(self, #job.keys)
  call.wait_ms, call.on_timeout = self.options.refresh_timeout_ms, "error"
  call.deadline_ms = C.gorge_now_ms() + call.wait_ms
  many.call, many.flags, many.waiter = call, REFRESH, call.engine.host.waiter()
  many:round(job.keys)
  many.waiter:release()
  job.many = many
  return select(2, next(many.errs))
end

---@param many gorge.Many
---@param call table
local function refresh_due(many, call)
  local done = refresh.begin(many.cache, many.due, call, fill_due)
  if done then
    for key, value in pairs(done.many.values) do
      many.values[key], many.sources[key] = value, done.many.sources[key]
    end
  end
end

function _M.fetch_many(self, keys, ttl, fn, tags, opts)
  local problem = _M.check(keys, ttl, fn, tags, opts, 2)
  if problem then
    return nil, problem
  end
  local _, _, _, _, want_clone, blocking = parse_call(opts)
  local many = new_many(self, #keys)
  local missing = look_for(many, keys)
  if not missing then
    return nil, "closed"
  elseif #missing > 0 then
    local engine, err = fetch.engine_for(self, blocking)
    if not engine then
      for i = 1, #missing do
        many.errs[missing[i]] = err
      end
      return many.values, many.errs, many.sources
    end
    many.call = new_call(self, engine, ttl, fn, tags, opts)
    many.waiter = engine.host.waiter()
    local done = fill(many, missing)
    many.waiter:release()
    if not done then
      return nil, "closed"
    elseif many.call.stale_ms > 0 then
      take_stale(many)
    end
  end
  if #many.due > 0 and self.engine then
    refresh_due(many, new_call(self, self.engine, ttl, fn, tags, opts))
  end
  if want_clone then
    copy_values(many.values, self.codec.clone)
  end
  return many.values, many.errs, many.sources
end

---fetch_many of a cache that does not read: runs `fn` for its caller alone.
function _M.without_cache(self, keys, ttl, fn, tags, opts)
  local problem = _M.check(keys, ttl, fn, tags, opts, 2)
  if problem then
    return nil, problem
  end
  local _, _, _, args = parse_call(opts)
  local many = new_many(self, #keys)
  many.call = load.alone(self, fn, args)
  many.call.__index = many.call
  local loads, seen = {}, {}
  for i = 1, #keys do
    local key = keys[i]
    many.errs[key] = check.key_problem(key)
    if not seen[key] and not many.errs[key] then
      seen[key] = true
      loads[#loads + 1] = { call = setmetatable({ key = key }, many.call) }
    end
  end
  if #loads > 0 then
    many:load(loads)
  end
  return many.values, many.errs, many.sources
end

return _M
