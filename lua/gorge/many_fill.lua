-- SPDX-License-Identifier: MIT
-- fetch_many, for the keys that L1 does not have: their operations, and the loader.
--
-- Each key has an operation of its own, as in fetch.lua. They are started one after another without a pause, so that their commands go out together. What
-- others are filling is waited for last: a call that held leases while it waits could wait for one that waits for it.

local C = require "gorge.ffi.lib"
local table_new = require "table.new"
local fetch = require "gorge.fetch"
local flights = require "gorge.flights"
local load = require "gorge.load"
local origin = require "gorge.origin"
local stale = require "gorge.stale"
local text = require "gorge.text"

local type = type
local unpack = unpack

local HIT = tonumber(C.GORGE_HIT)
local PENDING = tonumber(C.GORGE_PENDING)
local LEASE = tonumber(C.GORGE_LEASE)
local FAILED = tonumber(C.GORGE_FAILED)
local TIMED_OUT = tonumber(C.GORGE_ERR_TIMEOUT)
local TELL = tonumber(C.GORGE_FETCH_TELL)

local FILL_BYTES = 4 * 1024 * 1024 -- under way at once: the values of a call need not all wait in the buffer of the connection

---A key that L1 did not have.
---@class gorge.ManyItem
---@field call gorge.Call that of all keys, with its own key
---@field op integer|nil its operation; nil: it has none
---@field flight gorge.Flight|nil that of the operation
---@field follower table|nil another coroutine's fill that it takes part in
---@field elsewhere boolean it waits, or has waited, for somebody else's fill
---@field status integer|nil of the store
---@field value any being stored
---@field size integer|nil
---@field waiter gorge.Waiter|nil that of the call, for as long as it waits for this key
local Item = {}
Item.__index = Item

---Its operation may have been decided, or the fill that it takes part in.
function Item:signal()
  if self.waiter then
    self.waiter:signal()
  end
end

---One call of fetch_many.
---@class gorge.Many
---@field cache gorge.Cache
---@field call table what is the same for all keys, see gorge.Call
---@field values table<string, any>
---@field errs table<string, any>
---@field sources table<string, string>
---@field failed table<string, boolean> keys whose errs are those of the loader, or of a wait for one
---@field waiter gorge.Waiter|nil signalled for each of its operations
---@field again string[] keys for another round
---@field due string[] keys whose values are to be refreshed
---@field flags integer|nil of its operations
local Many = {}
Many.__index = Many

function Many:answer(key, value, err, source)
  if err ~= nil then
    self.errs[key], self.failed[key] = err, true
  else
    self.values[key], self.sources[key] = value, source
  end
end

---A value past its end, when `on_lock_timeout` asks for that after a wait in vain and there is one.
---@return boolean
function Many:answer_stale(item)
  if item.call.on_timeout ~= "stale" then
    return false
  end
  local found, value, source = stale.find(self.cache, item.call)
  if found then
    self:land(item, "value", value, nil, source)
    self:answer(item.call.key, value, nil, source)
  end
  return found
end

---An item waits no longer for its operation or for another coroutine.
function Many:leave(item)
  item.waiter = nil
  if item.op then
    self.call.engine:unlisten(item.op, item)
  end
end

---Ends the item's operation, tells who takes part in it.
function Many:land(item, state, value, err, source)
  if item.op then
    flights.land(self.call.engine, item.flight, state, value, err, source)
    item.op, item.flight = nil, nil
  end
end

---How many keys may ask Redis at once: the commands of a call must leave room for those of others.
function Many:window()
  local redis = self.cache.options.redis
  if not redis then
    return math.huge
  end
  local commands = self.call.tags ~= "" and 2 or 1 -- of a look-up
  return math.max(1, math.floor(redis.max_pending / 2 / commands))
end

-- A round: operations ------------------------------------------------------------------------------------------------

---Begins what one key needs. What waits is put into `items`, what the loader is to be run for into `loads`.
function Many:begin(key, items, loads)
  local cache, engine = self.cache, self.call.engine
  local call = setmetatable({ key = key }, self.call)
  local item = setmetatable({ call = call, elsewhere = false }, Item)
  local flight, own = flights.find(cache, key)
  if own then
    self.errs[key] = fetch.own_fill(key)
    return
  elseif flight and flights.can_share(cache, call, flight) then
    local ready, why = engine.host.can_wait(engine)
    if not ready then
      self.errs[key] = "would block: " .. why
      return
    end
    item.waiter = self.waiter
    item.follower, item.elsewhere = flights.take_part(call, flight, self.waiter, item), true
    items[#items + 1] = item
    return
  end
  local op, status = engine:start_fetch(key, call.tags, call.lock_ms, call.wait_ms, self.flags or TELL)
  if op == 0 then -- no memory for an operation: the caller still gets its value
    loads[#loads + 1] = item
    return
  elseif status == PENDING then
    local ready, why = engine.host.can_wait(engine)
    if not ready then
      engine:free(op)
      self.errs[key] = "would block: " .. why
      return
    end
  end
  item.op, item.flight = op, flights.begin(cache, call, op)
  item.waiter = self.waiter
  engine:listen(op, item, self.waiter)
  items[#items + 1] = item
end

---An operation is decided.
function Many:conclude(item, status, loads)
  local call, engine = item.call, self.call.engine
  self:leave(item)
  if status == HIT then
    engine:status(item.op)
    local flight = item.flight
    item.op, item.flight = nil, nil
    local again, value, err, source = fetch.from_l2(self.cache, call, flight)
    if again then
      self.again[#self.again + 1] = call.key
    else
      self:answer(call.key, value, err, source)
    end
    return
  elseif status == TIMED_OUT and self:answer_stale(item) then
    return
  elseif status == TIMED_OUT and call.on_timeout ~= "error" then
    status = flights.run(call, item.flight)
  end
  if status == LEASE then
    loads[#loads + 1] = item
    return
  elseif status == FAILED or status == TIMED_OUT then
    local _, err
    if status == FAILED then
      engine:status(item.op)
      err = engine:bytes()
    else
      _, err = fetch.timed_out(call)
    end
    self:land(item, "value", nil, err)
    self:answer(call.key, nil, err)
  else
    self:land(item, "again")
    self.again[#self.again + 1] = call.key
  end
end

---Somebody of this worker has ended the fill that it takes part in, or the time is over.
function Many:conclude_follower(item, loads)
  local call, follower = item.call, item.follower
  local key = call.key
  self:leave(item)
  if follower.state == "value" then
    self:answer(key, follower.value, follower.err, follower.source or "l0")
  elseif follower.state == "again" then
    self.again[#self.again + 1] = key
  elseif call.on_timeout == "error" then
    local _, err = fetch.timed_out(call, follower.state)
    self:answer(key, nil, err)
  elseif not self:answer_stale(item) then
    loads[#loads + 1] = item
  end
end

---Concludes all that is decided.
---@return gorge.ManyItem[] items that are not
---@return boolean busy some of them wait for Redis only, not for somebody else
function Many:sift(items, loads)
  local engine = self.call.engine
  local now_ms = C.gorge_now_ms()
  local rest, busy = {}, false
  for i = 1, #items do
    local item = items[i]
    if item.follower then
      if item.follower.state or now_ms >= item.call.deadline_ms then
        self:conclude_follower(item, loads)
      else
        rest[#rest + 1] = item
      end
    else
      local status = C.gorge_op_status(engine.handle, item.op, nil)
      if status == PENDING then
        rest[#rest + 1] = item
        item.elsewhere = item.elsewhere or engine:elsewhere(item.op)
        busy = busy or not item.elsewhere
      else
        self:conclude(item, status, loads)
      end
    end
  end
  return rest, busy
end

---Waits until something may have changed.
function Many:wait(items)
  local engine = self.call.engine
  local slice = math.max(1, math.min(1000, self.call.deadline_ms - C.gorge_now_ms()))
  for i = 1, #items do
    local op = items[i].op
    local ms = op and C.gorge_op_wait_ms(engine.handle, op) or slice
    slice = ms < slice and ms or slice
  end
  engine.host.kick(engine)
  engine.host.expect(engine)
  engine:pause(self.waiter, slice)
end

---Waits until no item waits for Redis alone, and concludes what is decided then. With `until_one`: until there is something to load, or nothing left.
---@return gorge.ManyItem[] items that wait for somebody else
function Many:settle(items, loads, until_one)
  local rest, busy = self:sift(items, loads)
  while #rest > 0 and (busy or (until_one and #loads == 0)) do
    self:wait(rest)
    rest, busy = self:sift(rest, loads)
  end
  return rest
end

-- A round: the loader ------------------------------------------------------------------------------------------------

---What a table of the user's has for the items. A metatable may have it, or raise.
local function pick(found, items)
  if type(found) ~= "table" or getmetatable(found) == nil then
    return found
  end
  local out = { found[1] }
  for i = 1, #items do
    local key = items[i].call.key
    out[key] = found[key]
  end
  return out
end

local function pick_all(items, values, errs, overrides)
  return pick(values, items), pick(errs, items), pick(overrides, items)
end

---Runs the loader for these keys.
---@return table values
---@return table errs by key
---@return any rest_err what is wrong with all keys that have no value
---@return table|number|nil overrides
local function run_loader(call, keys, items)
  local args, began_us = call.args, C.gorge_now_us()
  local ok, values, errs, overrides
  if args then
    ok, values, errs, overrides = load.protected(call.fn, keys, unpack(args, 1, args.n or #args))
  else
    ok, values, errs, overrides = load.protected(call.fn, keys)
  end
  call.load_ms = (C.gorge_now_us() - began_us) / 1000
  if ok and type(values) == "table" then
    ok, values, errs, overrides = load.protected(pick_all, items, values, errs, overrides)
  end
  if not ok then
    return {}, {}, values
  elseif type(values) == "nil" and errs ~= nil then
    return {}, {}, errs
  elseif type(values) ~= "table" then
    return {}, {}, "gorge: fn must return a table of values by key, got " .. text.describe(values)
  elseif values[1] ~= nil then -- else all of them would be "no such thing", and be remembered as that
    return {}, {}, "gorge: fn must return a table of values by key, got an array"
  elseif overrides ~= nil and type(overrides) ~= "table" and type(overrides) ~= "number" then
    return {}, {}, "gorge: the third value that fn returns must be a ttl or a table by key, got " .. text.describe(overrides)
  elseif errs ~= nil and type(errs) ~= "table" then
    return values, {}, errs, overrides
  end
  return values, errs or {}, nil, overrides
end

---Values past their end for keys whose loader would have to wait.
---@return gorge.ManyItem[] those that have none
function Many:take_stale(items)
  local rest = {}
  for i = 1, #items do
    local item = items[i]
    local found, value, source = stale.find(self.cache, item.call)
    if found then
      self:end_unrun(item, "value", value, source)
      self:answer(item.call.key, value, nil, source)
    else
      rest[#rest + 1] = item
    end
  end
  return rest
end

---Ends an item for which the loader is not run, without an error for those who share its fill.
function Many:end_unrun(item, state, value, source)
  if item.op then
    local engine = self.call.engine
    engine:mark(item.op, false)
    engine:skip(item.op)
    self:land(item, state, value, nil, source)
  end
end

---Leave to run the loader, if `origin` gives it.
---@return integer|nil run
---@return gorge.ManyItem[] items for which it is to be run; those that have a value past their end do not wait
function Many:ask_origin(items)
  local cache, call = self.cache, self.call
  local run, why_not, later = origin.ask(cache, call)
  if not run and not why_not then
    if call.stale_ms > 0 then
      items = self:take_stale(items)
    end
    if #items > 0 then
      run, why_not, later = origin.wait(cache, call)
    end
  end
  for i = 1, #items do
    local item = items[i]
    if run and item.op then
      call.engine:mark(item.op, true)
    elseif later then
      self:end_unrun(item, "again")
      self:answer(item.call.key, nil, why_not)
    elseif not run then
      if item.op then
        call.engine:mark(item.op, false)
        load.failed(item.call, item.op, "gorge: " .. why_not)
      end
      self:finish(item, nil, "gorge: " .. why_not)
    end
  end
  return run, items
end

---A key's fill is over, one way or another.
function Many:finish(item, value, err)
  self:land(item, "value", value, err)
  self:answer(item.call.key, value, err, "fn")
end

---Waits until these stores are over.
function Many:finish_stores(items)
  local engine = self.call.engine
  local rest = items
  while #rest > 0 do
    local pending = {}
    for i = 1, #rest do
      local item = rest[i]
      local status = engine:status(item.op)
      if status == PENDING then
        pending[#pending + 1] = item
      else
        self:leave(item)
        load.end_store(self.cache, item.call, item.value, status, item.size)
        self:finish(item, item.value)
      end
    end
    rest = pending
    if #rest > 0 then
      self:wait(rest)
    end
  end
end

---Begins to store what the loader returned for one key.
---@return boolean under_way
function Many:store(item, value, overrides)
  local call = item.call
  local err, status, size = load.begin_store(self.cache, call, item.op, value, overrides)
  if err ~= nil then
    self:finish(item, nil, err)
    return false
  elseif status == PENDING then
    item.value, item.size, item.waiter = value, size, self.waiter
    call.engine:listen(item.op, item, self.waiter)
    return true
  elseif status then
    load.end_store(self.cache, call, value, status, size)
  end
  self:finish(item, value)
  return false
end

---Runs the loader once for all of these, stores what it returns and tells who waits.
function Many:load(items)
  local run
  if self.call.engine.has_origin then
    run, items = self:ask_origin(items)
    if not run then
      return
    end
  end
  local keys = table_new(#items, 0)
  for i = 1, #items do
    keys[i] = items[i].call.key
  end
  local values, errs, rest_err, overrides = run_loader(self.call, keys, items)
  if run then
    origin.leave(self.call, run, rest_err ~= nil)
  end
  local all = type(overrides) == "number" and overrides or nil
  local storing, bytes, window = {}, 0, self:window()
  for i = 1, #items do
    local item = items[i]
    local key = item.call.key
    local value, err = values[key], nil
    if type(value) == "nil" then
      err = errs[key]
      if err == nil then
        err = rest_err
      end
    end
    if err ~= nil then
      if item.op then
        load.failed(item.call, item.op, err)
      end
      self:finish(item, nil, err)
    elseif not item.op then
      self:finish(item, value, load.misfit(self.cache, item.call, value))
    elseif self:store(item, value, all or (overrides and overrides[key])) then
      storing[#storing + 1] = item
      bytes = bytes + item.size
      if bytes >= FILL_BYTES or #storing >= window then
        self:finish_stores(storing)
        storing, bytes = {}, 0
      end
    end
  end
  self:finish_stores(storing)
end

flights.leaders(Many.settle, Many.load)

---@param keys string[]
---@return string[] again keys to be looked for once more
function Many:round(keys)
  self.again = {}
  local items, loads, window = {}, {}, self:window()
  for i = 1, #keys do
    self:begin(keys[i], items, loads)
    if i % window == 0 then
      items = self:settle(items, loads)
    end
  end
  items = self:settle(items, loads)
  while #loads > 0 or #items > 0 do
    if #loads > 0 then
      self:load(loads)
      loads = {}
    end
    items = self:settle(items, loads, true)
  end
  return self.again
end

return Many
