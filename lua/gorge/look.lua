-- SPDX-License-Identifier: MIT
-- What L1 has of a key, decoded: the way of a hit that L0 did not have.

local C = require "gorge.ffi.lib"
local Engine = require "gorge.ffi.engine"
local kinds = require "gorge.codec.kind"
local l0 = require "gorge.ffi.l0"
local options = require "gorge.options"
local refresh = require "gorge.refresh"
local report = require "gorge.report"
local text = require "gorge.text"

local decode_error_count = tonumber(C.GORGE_COUNT_DECODE_ERRORS)
local parse_call = options.parse_call
local look_l1 = Engine.look
local store_l0 = l0.store

local HIT = tonumber(C.GORGE_HIT)
local DUE = tonumber(C.GORGE_DUE)
local SPACE = tonumber(C.GORGE_SPACE)
local MISS = tonumber(C.GORGE_MISS)
local CUSTOM, PACKED = kinds.CUSTOM, kinds.PACKED
local CLOSED = tonumber(C.GORGE_ERR_CLOSED)

local _M = {}

---A value from L0 for a call with options.
function _M.hand_out(self, value, opts)
  local _, _, _, _, want_clone = parse_call(opts, 3)
  if want_clone then
    return self.codec.clone(value)
  end
  return value
end

---A stored value that is no value to anybody: counted, told at most once a minute.
function _M.note_undecodable(self, key, layer, why)
  if not self.engine then
    return
  end
  local counters = self.engine.counters
  counters[decode_error_count] = counters[decode_error_count] + 1
  local message = "gorge: a value in " .. layer .. " cannot be decoded, treated as a miss: " .. text.printable(why, 200)
  report.write(self.report, "warn", message, { key = key })
end

---What the last call told, for who decodes its value and needs it afterwards: a decoder of the user's may yield, and others use `read` then.
---@param engine gorge.Engine
---@return ffi.cdata* read
function _M.read_of(engine)
  local read = engine.read
  if read.kind == CUSTOM or read.kind == PACKED then -- what is compressed may be of a serializer of the user's
    return engine:copy_read()
  end
  return read
end

---Decodes what the last look into L1 found, and keeps it in L0.
---@return integer status HIT or MISS
---@return any value
---@param keep boolean|nil false: L0 could not answer with it
local function take(self, key, keep)
  local engine = self.engine
  local read, codec = engine.read, self.codec
  local ok, value
  if read.kind == codec.memory_kind then
    ok, value = codec.decode_memory(engine.buffer, read.len)
  else
    read = _M.read_of(engine)
    ok, value = codec.decode(read.kind, engine:bytes())
  end
  if not ok then
    _M.note_undecodable(self, key, "L1", value)
    C.gorge_drop(engine.handle, key, #key) -- else it would be in the way of the next one
    return MISS
  end
  if keep ~= false and engine.entered then -- the workers of a master that looked before the fork start with an empty L0
    store_l0(self.l0, key, value, read)
  end
  return HIT, value
end

---A look into L1 that takes the shortest way for strings.
---@param view ffi.cdata* whose cache is not NULL
---@return integer status HIT or MISS, or a failure; SPACE: the buffer is too small; DUE: see from_l1
---@return any value
function _M.look(self, view, key)
  local status, value = look_l1(view, key)
  if status == HIT then
    if value == nil then
      return take(self, key)
    end
    if view.records ~= nil then
      store_l0(self.l0, key, value, view.read)
    end
  end
  return status, value
end

---A value that is due for a refresh. Whether this reader is to see to that must be asked before the decoder may yield.
---@return integer status HIT or MISS
---@return any value
---@return boolean|nil due
local function take_due(self, key)
  local wanted = refresh.wanted(self)
  local status, value = take(self, key, false)
  return status, value, wanted
end

---@param looked integer|nil what a look a moment ago said; nil: none was made
---@return integer status HIT or MISS, or a failure
---@return any value
---@return boolean|nil due the caller is to see to its refresh
function _M.from_l1(self, key, looked)
  if looked == DUE then
    return take_due(self, key)
  elseif looked and looked ~= SPACE then
    return looked
  end
  local engine = self.engine
  if not engine then
    return CLOSED
  elseif not engine.entered then
    self.host.enter(engine) -- from the first look on this process must hear of what other nodes do; a failure is told when a value is needed
  end
  local status = engine:get(key)
  if status == DUE then
    return take_due(self, key)
  elseif status ~= HIT then
    return status
  end
  return take(self, key)
end

return _M
