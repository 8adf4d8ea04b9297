-- SPDX-License-Identifier: MIT
-- What the core tells of a key, as tables: for cache:explain and the command line. Times in seconds, from the moment of the look on.

local bit = require "bit"
local ffi = require "ffi"
local C = require "gorge.ffi.lib"

local band = bit.band

local NIL = tonumber(C.GORGE_KIND_NIL)
local OF_VALUE, THERE, QUEUED = tonumber(C.GORGE_TAG_OF_VALUE), tonumber(C.GORGE_TAG_THERE), tonumber(C.GORGE_TAG_QUEUED)
local NONE, STALE = tonumber(C.GORGE_LOOK_NONE), tonumber(C.GORGE_LOOK_STALE)
local STATES = { [0] = "none", "good", "due", "stale", "expired", "tag changed", "damaged" }
local FLIGHTS = { [0] = nil, "running", "lapsed", "given up", "overtaken" }
local OPEN_MS = 2 ^ 53 -- more than any clock says

local _M = {}

local function version(number)
  return number ~= 0 and tonumber(number) or nil
end

local function left(until_ms, now_ms)
  return math.max(0, until_ms - now_ms) / 1000
end

---@return table[] tags name, same (nil: it is another value's, or none), and the rest as `add` says
local function tags_of(look, add)
  local list = {}
  for i = 0, look.ntags - 1 do
    local tag = look.tags[i]
    local out = { name = ffi.string(tag.name, tag.len), of_value = band(tag.flags, OF_VALUE) ~= 0 }
    if out.of_value then
      out.same = band(tag.flags, THERE) ~= 0 and tag.stored == tag.now
    end
    add(out, tag)
    list[i + 1] = out
  end
  return list
end

local function names_of(tags)
  local names = {}
  for _, tag in ipairs(tags) do
    if tag.of_value then
      names[#names + 1] = tag.name
    end
  end
  return names
end

local function l1_of(look, now_ms, closed)
  local out = { state = STATES[look.state] }
  if look.state == NONE then
    return out, {}
  end
  local life = look.life
  local tags = tags_of(look, function(tag, raw) tag.generation = tonumber(raw.now) end)
  if closed then
    out.state = "closed"
  end
  out.ttl = left(life.ends_ms, now_ms)
  out.past = life.ends_ms <= now_ms and left(now_ms, life.ends_ms) or nil
  out.stale_left = life.keeps_ms > life.ends_ms and left(life.keeps_ms, math.max(now_ms, life.ends_ms)) or 0
  out.due = look.state == C.GORGE_LOOK_DUE and life.refresh_ms > 0 and now_ms >= life.refresh_ms
  out.size, out.negative = look.size, look.kind == NIL
  out.version, out.frequency = version(look.version), look.frequency
  out.tags = names_of(tags)
  return out, tags
end

---What this host holds of a key.
---@param look ffi.cdata* struct gorge_host_look
---@return { l1: table, tags: table[], flight: table|nil, freshness: table, origin_refuses: boolean }
function _M.host(look)
  local now_ms = look.now_ms
  local closed = now_ms >= look.fresh_until_ms
  local out = { origin_refuses = look.origin_refuses ~= 0 }
  out.l1, out.tags = l1_of(look.l1, now_ms, closed)
  local flight = look.flight
  if FLIGHTS[flight.state] then
    out.flight = {
      state = FLIGHTS[flight.state], here = flight.here ~= 0, waiters = flight.waiters, leased = flight.leased ~= 0,
      deadline = left(flight.deadline_ms, now_ms), latest = left(flight.latest_ms, now_ms),
    }
  end
  out.freshness = {
    open = not closed,
    left = look.fresh_until_ms < OPEN_MS and left(look.fresh_until_ms, now_ms) or nil,
    contact = look.held ~= 0,
    lag = look.lag_ms >= 0 and look.lag_ms / 1000 or nil,
    epoch = tonumber(look.epoch),
  }
  return out
end

---The same for a cache.
---@param engine gorge.Engine
---@param key string 1 to 8192 bytes
function _M.of_cache(engine, key)
  local look = ffi.new "struct gorge_host_look"
  C.gorge_explain_host(engine.handle, key, #key, look)
  return _M.host(look)
end

---Asks Redis what it holds of a key.
---@param engine gorge.Engine
---@param key string
---@param tags string packed
---@return integer op 0 when Redis is not asked
---@return integer status
function _M.start(engine, key, tags)
  local status = C.gorge_explain_start(engine.handle, key, #key, tags, #tags, engine.op_out)
  return tonumber(engine.op_out[0]), status
end

---What Redis holds of a key.
---@param engine gorge.Engine
---@param op integer that has ended
---@return table|nil l2 nil: there was no memory
---@return table[]|nil tags
---@return table|nil lease
---@return table|nil rest what is of no layer: epoch, asked, queued
function _M.of_redis(engine, op)
  local look = ffi.new "struct gorge_l2_look"
  if C.gorge_explain_take(engine.handle, op, look) ~= 0 then
    return nil
  end
  local out = { state = look.status == 0 and STATES[look.state] or "error" }
  out.error = look.error[0] ~= 0 and ffi.string(look.error) or nil
  local tags = tags_of(look, function(tag, raw)
    tag.there = band(raw.flags, THERE) ~= 0
    tag.invalidated = version(raw.version)
    tag.queued = band(raw.flags, QUEUED) ~= 0
  end)
  if out.state ~= "error" and look.state ~= NONE then
    out.size, out.version = look.size, version(look.version)
  end
  if out.size and out.state ~= "damaged" then
    out.ttl = look.ttl_ms / 1000
    out.past = look.state == STALE and look.past_ms / 1000 or nil
    out.stale_left = math.max(0, look.kept_ms - look.ttl_ms) / 1000
    out.negative = look.kind == NIL
    out.tags = names_of(tags)
  end
  local lease = look.status == 0 and { held = look.lease_ms > 0, ttl = look.lease_ms > 0 and look.lease_ms / 1000 or nil } or nil
  return out, tags, lease, { epoch = tonumber(look.epoch), asked = tonumber(look.asked), queued = look.queued }
end

---@param status integer
---@return string
function _M.phrase(status)
  return ffi.string(C.gorge_status_phrase(status))
end

---Why Redis is not asked; nil: it may be.
---@param engine gorge.Engine
---@param key string
---@return "none"|"process"|"breaker"|"queued"|string|nil
function _M.hindrance(engine, key)
  local status = C.gorge_explain_start(engine.handle, key, #key, nil, 0, nil)
  if status == 0 then
    return nil
  end
  local why = ({
    [tonumber(C.GORGE_ERR_UNSUPPORTED)] = "none", [tonumber(C.GORGE_ERR_DOWN)] = "process",
    [tonumber(C.GORGE_ERR_BREAKER)] = "breaker", [tonumber(C.GORGE_REFUSED)] = "queued",
  })[status]
  return why or _M.phrase(status)
end

return _M
