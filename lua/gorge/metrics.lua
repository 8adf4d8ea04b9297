-- SPDX-License-Identifier: MIT
-- The option `metrics`: callbacks for programs that keep metrics of their own. A handle with callbacks gets `fetch` and `get` that call them; one without is
-- not touched, so that its hits cost what they cost.

local C = require "gorge.ffi.lib"
local check = require "gorge.arguments"
local many = require "gorge.many"
local options = require "gorge.options"
local report = require "gorge.report"
local text = require "gorge.text"

local error = error
local pcall = pcall
local type = type
local tonumber = tonumber

local _M = {}

---Calls a callback, if there is one. What it raises is logged and goes no further.
local function tell(cache, name, value)
  local callback = cache.options.metrics[name]
  if callback then
    local ok, err = pcall(callback, value)
    if not ok then
      local why = type(err) == "string" and text.printable(err, 200) or text.describe(err)
      report.write(cache.report, "error", "gorge: metrics." .. name .. " raised: " .. why, nil, name)
    end
  end
end

local function now_us()
  local us = tonumber(C.gorge_now_us()) -- not a tail call: see hosts/nginx.lua
  return us
end

---What a run of fn returned, once it has been told.
local function finish(cache, began_us, ok, value, err, ...)
  tell(cache, "inc_db_fetches")
  tell(cache, "observe_db_fetch_latency", (now_us() - began_us) / 1e6)
  if not ok then
    tell(cache, "inc_db_errors")
    error(value, 0) -- as it was: fetch takes it from here
  elseif type(value) == "nil" and err ~= nil then
    tell(cache, "inc_db_errors")
  end
  return value, err, ...
end

---fn with its runs told. One wrapper for each fn, for as long as the garbage collector leaves it.
local function timed(cache, wrappers, fn)
  local wrapper = wrappers[fn]
  if not wrapper then
    wrapper = function(...)
      return finish(cache, now_us(), pcall(fn, ...))
    end
    wrappers[fn] = wrapper
  end
  return wrapper
end

local function tell_source(cache, began_us, source)
  if source == "l0" or source == "l1" then
    tell(cache, "inc_l1_hits")
    return
  end
  tell(cache, "inc_l1_misses")
  if source == "l2" then
    tell(cache, "inc_l2_hits")
    tell(cache, "observe_l2_hit_latency", (now_us() - began_us) / 1e6)
  elseif cache.engine and cache.engine.has_redis then
    tell(cache, "inc_l2_misses")
  end
end

local function answered(cache, began_us, value, err, source)
  tell_source(cache, began_us, source)
  return value, err, source
end

---The same for each key of fetch_many.
local function answered_many(cache, began_us, values, errs, sources)
  if values then
    for _, source in pairs(sources) do
      tell_source(cache, began_us, source)
    end
    for _ in pairs(errs) do
      tell_source(cache, began_us, nil)
    end
  end
  return values, errs, sources
end

-- The methods below are called in the caller's place: what is wrong with arguments is raised at the caller's line.
local function check_call(key, opts)
  check.key_type(key, 4)
  options.parse_call(opts, 3)
end

---Gives a handle the methods that tell.
---@param cache gorge.Cache
function _M.attach(cache)
  local fetch, fetch_many, get = cache.fetch, cache.fetch_many, cache.get
  local wrappers = setmetatable({}, { __mode = "kv" })

  function cache.fetch(self, key, ttl, fn, tags, opts)
    check_call(key, opts)
    check.ttl_ms(ttl, 1, 3)
    check.tags(tags, 3)
    local began_us = now_us()
    if type(fn) ~= "nil" then
      check.loader(fn, 3)
      fn = timed(self, wrappers, fn)
    end
    return answered(self, began_us, fetch(self, key, ttl, fn, tags, opts))
  end

  function cache.fetch_many(self, keys, ttl, fn, tags, opts)
    many.check(keys, ttl, fn, tags, opts, 2)
    return answered_many(self, now_us(), fetch_many(self, keys, ttl, timed(self, wrappers, fn), tags, opts))
  end

  function cache.get(self, key, opts)
    check_call(key, opts)
    return answered(self, now_us(), get(self, key, opts))
  end
end

return _M
