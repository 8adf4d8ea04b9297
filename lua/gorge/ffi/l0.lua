-- SPDX-License-Identifier: MIT
-- L0: decoded values of this worker. A record is good while the words in shared memory that it was read at have not changed, so a
-- hit is one look at those words: no call into C, no new object.
--
-- The records are an FFI array, the values a Lua array beside it. When all places are taken the oldest record gives way: L1 is near.
-- The check itself stands in cache.lua, where it can be compiled into the caller's trace.

local bit = require "bit"
local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local table_new = require "table.new"

local band, bnot = bit.band, bit.bnot

local _M = {}

-- Bits 45 and 46 of a slot word count uses (core/l1/layout.h): they change without the entry changing.
_M.USES = 0x600000000000ULL
_M.WORD = bnot(_M.USES)

---What stands for nil among the values.
_M.NIL = setmetatable({}, { __tostring = function() return "gorge.nil" end })

---@class gorge.L0
---@field index table<string, integer> place of a key's record
---@field records ffi.cdata* struct gorge_l0_record[]
---@field values table
---@field keys table<integer, string>
---@field capacity integer 0: L0 is off
---@field next integer the place that is taken next
---@field global ffi.cdata* the namespace's global word, in shared memory
---@field fresh_until_ms ffi.cdata* in shared memory; as a signed number, which costs less to convert
---@field counters ffi.cdata* this worker's counters
---@field now fun(): number milliseconds of the clock that all expiries are of, as cheap as the host can

---@param capacity integer
---@param engine gorge.Engine
---@param now fun(): number
---@return gorge.L0
function _M.new(capacity, engine, now)
  local words = engine.words
  local self = {
    index = table_new(0, capacity),
    records = ffi.new("struct gorge_l0_record[?]", capacity + 1),
    values = table_new(capacity, 0),
    keys = table_new(capacity, 0),
    capacity = capacity,
    next = 0,
    global = ffi.cast("const uint64_t *", words) + ffi.offsetof("struct gorge_words", "global") / 8,
    fresh_until_ms = ffi.cast("const int64_t *", words) + ffi.offsetof("struct gorge_words", "fresh_until_ms") / 8,
    counters = engine.counters,
    now = now,
  }
  engine.l0 = self -- to be told of the counters of another process
  return self
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
    local old = l0.keys[place]
    if old then
      l0.index[old] = nil
    end
    l0.keys[place] = key
    l0.index[key] = place
  end
  local record = l0.records[place]
  record.slot = read.slot
  record.word = band(read.word, _M.WORD)
  record.global = read.global
  record.expires_ms = read.expires_ms
  if value == nil and type(value) == "nil" then
    value = _M.NIL
  end
  l0.values[place] = value
end

---A hot entry must not look cold to eviction because L0 answers for it.
_M.use = C.gorge_use

return _M
