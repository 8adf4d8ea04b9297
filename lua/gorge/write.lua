-- SPDX-License-Identifier: MIT
-- set, touch, delete, invalidate_tags, clear: applied on this host at once, then in Redis, then waited for.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local check = require "gorge.arguments"
local has_gap = require("gorge.check").has_gap
local life = require "gorge.life"
local engine_of = require("gorge.ready").engine_of
local text = require "gorge.text"
local trouble = require "gorge.trouble"

local MISS = tonumber(C.GORGE_MISS)
local OK = tonumber(C.GORGE_OK)
local PENDING = tonumber(C.GORGE_PENDING)
local DETACHED = "this host is done, Redis was told without waiting for its answer"

local _M = {}

---The end of a write: waits for Redis if it was asked.
---@return boolean|nil ok false: there is no such key
---@return string|nil err
local function finish(self, engine, what, op, status)
  if op == 0 then
    if status == OK then
      return true
    elseif status == MISS then
      return false
    end
    return nil, "gorge: " .. what .. ": " .. ffi.string(C.gorge_status_phrase(status))
  end
  if status == PENDING then
    local ready, why = self.host.can_wait(engine)
    if not ready then
      engine.host.kick(engine)
      engine:free(op)
      return nil, "would block: " .. why .. "; " .. DETACHED
    end
    engine.host.guard(engine, op)
    engine:wait(op, status)
  end
  status = engine:status(op)
  local detail = status < 0 and engine:bytes() or ""
  engine:free(op)
  trouble.look(self)
  if status == OK then
    return true
  elseif status == MISS then
    return false
  end
  local phrase = ffi.string(C.gorge_status_phrase(status))
  if detail ~= "" then
    phrase = phrase .. ": " .. text.printable(detail, 200)
  end
  return nil, "gorge: " .. what .. ": done on this host, but not in Redis: " .. phrase
end

function _M.set(self, key, value, ttl, tags)
  check.key_type(key, 3)
  local options = self.options
  local nothing = type(value) == "nil"
  local ttl_ms = check.ttl_ms(ttl, nothing and options.negative_cache_ttl_ms or options.l1_ttl_ms, 3)
  local packed = check.tags(tags, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  local engine, err = engine_of(self)
  if not engine then
    return nil, err
  end
  local kind, bytes, l2_kind, l2_bytes = self.codec.encode(value, engine.has_redis)
  if not kind then
    return nil, "gorge: key " .. text.quote(key) .. ": " .. bytes
  end
  local l1_ttl_ms
  ttl_ms, l1_ttl_ms = life.of(ttl_ms, options.l1_ttl_ms, options.expiration_jitter)
  engine:prepare(options.stale_if_error_ms, life.refresh(ttl_ms, options), 0)
  if not engine.has_redis then
    local done = engine:put(key, packed, l1_ttl_ms, kind, bytes)
    if done == OK then
      return true
    end
    return finish(self, engine, "set", 0, done)
  end
  local op, status = engine:start_set(key, packed, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  return finish(self, engine, "set", op, status)
end

function _M.delete(self, key)
  check.key_type(key, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  local engine, err = engine_of(self)
  if not engine then
    return nil, err
  end
  return finish(self, engine, "delete", engine:start_delete(key))
end

function _M.clear(self)
  local engine, err = engine_of(self)
  if not engine then
    return nil, err
  end
  return finish(self, engine, "clear", engine:start_clear())
end

function _M.touch(self, key, ttl)
  check.key_type(key, 3)
  local options = self.options
  local ttl_ms = check.ttl_ms(ttl, options.l1_ttl_ms, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  local engine, err = engine_of(self)
  if not engine then
    return nil, err
  end
  local l1_ttl_ms
  ttl_ms, l1_ttl_ms = life.of(ttl_ms, options.l1_ttl_ms, options.expiration_jitter)
  return finish(self, engine, "touch", engine:start_touch(key, ttl_ms, l1_ttl_ms))
end

function _M.invalidate_tags(self, first, ...)
  local list = first
  if type(first) ~= "table" then
    list = { first, ... }
  elseif select("#", ...) > 0 then
    error("gorge: invalidate_tags takes tags, or one table of tags", 2)
  end
  if #list == 0 then
    error("gorge: invalidate_tags needs at least one tag", 2)
  elseif has_gap(list) then
    error("gorge: invalidate_tags takes tags without gaps, got nil in between", 2)
  end
  local engine, err = engine_of(self)
  if not engine then
    return nil, err
  end
  for from = 1, #list, 16 do
    local some = {}
    for i = from, math.min(from + 15, #list) do
      some[#some + 1] = list[i]
    end
    local packed = check.tags(some, 3)
    local ok, failure = finish(self, engine, "invalidate_tags", engine:start_invalidate(packed))
    if not ok then
      err = failure
    end
  end
  if err then
    return nil, err
  end
  return true
end

return _M
