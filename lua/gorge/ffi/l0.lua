-- SPDX-License-Identifier: MIT
-- L0: decoded values of this worker. A record is good while the words in shared memory that it was read at have not changed, so a
-- hit is one look at those words: no call into C, no new object.
--
-- The records are an FFI array, the values a Lua array beside it. When all places are taken the oldest record gives way: L1 is near.
--
-- What a hit needs costs most where it is found the first time, in a trace that was entered anew: each field of a Lua table takes a dozen
-- instructions to find and to check. So the pointers stand together in one C struct (gorge_view), and each handle holds that struct and the two
-- tables itself.

local bit = require "bit"
local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local check = require "gorge.arguments"
local table_new = require "table.new"

local band, bor, bxor, rshift, tobit = bit.band, bit.bor, bit.bxor, bit.rshift, bit.tobit
local min = math.min
local type = type
local now_ms, note_uses = C.gorge_now_ms, C.gorge_note_uses
local USES_MAX = 0ULL + C.GORGE_USES_MAX
local L0_HITS = tonumber(C.GORGE_COUNT_L0_HITS)

local _M = {}

-- Bits 45 and 46 of a slot word count uses (core/l1/layout.h): they change without the entry changing.
local USES = 0x600000000000ULL
local IDENTITY = bit.bnot(USES)
local ANY_USE = USES -- (x + ANY_USE) >> 47 is 1 when x, which has no other bits than these two, is not 0

local RECENT_MIX, RECENT_SHIFT = 0x9E3779B97F4A7C15ULL, 56
local RECENT_WORDS = tonumber(C.GORGE_COUNTERS) - tonumber(C.GORGE_COUNT_RECENT) - 1

local LINE = 64
local RECORD = ffi.sizeof "struct gorge_l0_record"

---@class gorge.L0
---@field index table<string, integer> place of a key's record
---@field memory ffi.cdata* what the records stand in
---@field records ffi.cdata* struct gorge_l0_record *; two of them are one cache line
---@field view ffi.cdata* struct gorge_view
---@field values table nil: there is no such thing
---@field keys table<integer, string>
---@field capacity integer 0: L0 is off
---@field next integer the place that is taken next

---@param capacity integer
---@param engine gorge.Engine
---@return gorge.L0
function _M.new(capacity, engine)
  local memory = ffi.new("uint8_t[?]", (capacity + 1) * RECORD + LINE)
  local address = tonumber(ffi.cast("uintptr_t", memory))
  local records = ffi.cast("struct gorge_l0_record *", memory + (LINE - address % LINE) % LINE)
  if capacity > 0 then
    engine.view.records = records
  end
  return {
    index = table_new(0, capacity),
    memory = memory,
    view = engine.view,
    records = records,
    values = table_new(capacity, 0),
    keys = table_new(capacity, 0),
    capacity = capacity,
    next = 0,
  }
end

---A look into L0: four loads from shared memory and the clock. JIT-compiled into whoever calls, which must be the method that the user has called.
---@param cache gorge.Cache
---@param key any
---@return boolean hit
---@return any value
function _M.look(cache, key)
  local view = type(cache) == "table" and cache.view
  if not view then
    check.cache(cache, 4)
  end
  local records = view.records
  if records == nil then
    return false
  end
  local place = cache.index[key]
  if not place then
    return false
  end
  local record = records[place]
  local word = record.slot[0]
  local words = view.words
  local clock = view.clock
  local now
  if clock ~= nil then
    now = clock[0]
  else
    now = now_ms()
  end
  local changed = bxor(word, record.word)
  if band(changed, IDENTITY) ~= 0 or words.global ~= record.global or now >= record.expires_ms or now >= words.fresh_until_ms then
    return false
  end
  -- A hot entry must not look cold to eviction because L0 answers for it. Its use is noted in any case and counts if a bit is missing: without a
  -- branch, since a trace is recorded when its entries are new, and would leave by an exit at each hit from then on.
  local used = view.used
  view.uses[used] = place
  used = used + rshift(changed + ANY_USE, 47)
  view.used = used
  if used == USES_MAX then
    note_uses(view)
  end
  local counters = view.counters
  local hits = counters[L0_HITS] + 1
  counters[L0_HITS] = hits
  -- For who wants to know the keys that are used most, see core/l1/uses.h.
  view.recent[min(tobit(rshift(hits * RECENT_MIX, RECENT_SHIFT)), RECENT_WORDS)] = record.slot
  return true, cache.values[place]
end

---What a look would find, without being one: nothing is counted.
---@param cache gorge.Cache
---@param key string
---@return "off"|"none"|"good"|"replaced"|"invalidated"|"expired"|"closed" state
function _M.state(cache, key)
  local view, place = cache.view, cache.index[key]
  if view.records == nil then
    return "off"
  elseif not place then
    return "none"
  end
  local record, words = view.records[place], view.words
  local now = view.clock ~= nil and view.clock[0] or now_ms()
  if band(bxor(record.slot[0], record.word), IDENTITY) ~= 0 then
    return "replaced"
  elseif words.global ~= record.global then
    return "invalidated"
  elseif now >= record.expires_ms then
    return "expired"
  end
  return now >= words.fresh_until_ms and "closed" or "good"
end

---From now on L0 is off, also for who has kept a method of the cache, or is in one.
---@param l0 gorge.L0
function _M.close(l0)
  l0.capacity = 0
  l0.view.records = nil
end

---Keeps a value that stands in L1 as `read` says.
---@param l0 gorge.L0
---@param key string
---@param value any
---@param read ffi.cdata* struct gorge_read with slot, word, global, expires_ms
function _M.store(l0, key, value, read)
  if l0.capacity == 0 or read.slot == nil then
    return
  end
  local place = l0.index[key]
  if not place then
    place = l0.next + 1
    if place > l0.capacity then
      place = 1
    end
    l0.next = place
    local view = l0.view
    if view.used ~= 0 then
      note_uses(view) -- while the records are what they were
    end
    local old = l0.keys[place]
    if old then
      l0.index[old] = nil
    end
    l0.keys[place] = key
    l0.index[key] = place
  end
  local record = l0.records[place]
  record.slot = read.slot
  record.word = bor(read.word, USES)
  record.global = read.global
  record.expires_ms = read.expires_ms
  l0.values[place] = value
end

return _M
