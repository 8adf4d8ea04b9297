-- SPDX-License-Identifier: MIT
-- One C cache handle and what Lua needs to wait for its operations. The only place, beside l0.lua, stats.lua and the hosts' glue, that touches cdata.
--
-- An engine belongs to a host (hosts/*.lua), which lends it:
--   host.waiter()      → a waiter: waiter:wait(seconds) returns when signalled or when the time is over; waiter:signal()
--   host.can_wait()    → true, or false and why
--   host.guard(engine, op)   arranges that the operation is given up when its coroutine is ended from outside; may do nothing
--   host.kick(engine)  something was queued for Redis
--   host.watch(engine, op, waiter), host.unwatch(engine, op)   the host may signal the waiter itself when the operation's status changes
--   host.expect(engine)      an operation waits for other workers
--   host.clock         the address of a word with the milliseconds, see gorge_cache_clock; may be nil

local bit = require "bit"
local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local configure = require("gorge.ffi.config").of

local tobit = bit.tobit
local ffi_new, ffi_string = ffi.new, ffi.string
local gorge_get = C.gorge_get
local tonumber = tonumber

local PENDING = tonumber(C.GORGE_PENDING)
local SPACE = tonumber(C.GORGE_SPACE)
local HIT = tonumber(C.GORGE_HIT)
local ERR_ARGUMENT = tonumber(C.GORGE_ERR_ARGUMENT)
local EVENTS = 64
local FIRST_BUFFER = 16384
local NO_KIND = 0xffffffff
local SLOTS = tonumber(C.GORGE_OP_SLOTS) -- the low digits of an operation's id are its slot, which another has after it

local _M = {}

---@class gorge.Engine
---@field handle ffi.cdata* gorge_cache *
---@field counters ffi.cdata* uint64_t *
---@field view ffi.cdata* struct gorge_view: what a hit needs
---@field read ffi.cdata* struct gorge_read, that of the view: what the last call told
---@field host gorge.Host
---@field after_poll fun()|false

---Where a worker keeps its latest hits, beside its counters.
local function recent_of(counters)
  return ffi.cast("const uint64_t **", counters + C.GORGE_COUNT_RECENT)
end

---@param options gorge.ParsedOptions
---@param host gorge.Host
---@param flags integer enum gorge_config_flag
---@return gorge.Engine|nil
---@return string? err
function _M.new(options, host, flags)
  local redis = options.redis
  local config, servers = configure(options, flags)
  local out, err = ffi_new "gorge_cache *[1]", ffi_new "char[256]"
  if C.gorge_cache_create(config, out, err, 256) ~= 0 then
    return nil, ffi_string(err)
  end
  local view = ffi_new "struct gorge_view"
  local self = {
    handle = ffi.gc(out[0], C.gorge_cache_destroy),
    host = host,
    inline = bit.band(flags, C.GORGE_CONFIG_INLINE) ~= 0,
    has_redis = redis ~= nil,
    cluster = redis ~= nil and redis.cluster ~= nil,
    has_origin = options.origin ~= nil,
    connect_timeout_ms = redis and redis.connect_timeout_ms, keepalive_ms = redis and redis.keepalive_interval_ms,
    counters = ffi_new("uint64_t[?]", C.GORGE_COUNTERS), -- until this process has a slot
    entered = false,
    view = view, read = view.read,
    servers = servers, -- it has lived until the configuration that points to it was read
    fetch = ffi_new "struct gorge_fetch", store = ffi_new "struct gorge_store", op_out = ffi_new "uint64_t[1]",
    events = ffi_new("uint64_t[?]", EVENTS),
    waiters = {}, -- by the operation's slot
    shared = {}, -- by the operation's slot: who else waits for it
    polled_ms = 0, after_poll = false,
  }
  for name, method in next, _M do -- behind a metatable, each call would look for its name in vain first
    self[name] = method
  end
  view.words = C.gorge_cache_words(self.handle)
  view.counters, view.recent = self.counters, recent_of(self.counters)
  view.plain = NO_KIND
  if host.clock then
    view.clock = host.clock
    C.gorge_cache_clock(self.handle, host.clock)
  end
  self:grow(FIRST_BUFFER)
  return self
end

function _M:grow(size)
  self.buffer = ffi_new("char[?]", size)
  self.read.buf = self.buffer
  self.read.buf_size = size
end

---Readies this process: its slot and counters, its control thread. Cheap once done; called at every miss.
---@param threads boolean false in a process that must not start threads (nginx's master)
---@return boolean|nil
---@return string? err
function _M:enter(threads)
  if self.entered then
    return true
  end
  local status = C.gorge_cache_enter(self.handle, threads and 1 or 0)
  if status ~= 0 then
    return nil, ffi_string(C.gorge_status_phrase(status))
  end
  if threads then
    self.counters = C.gorge_cache_counters(self.handle)
    self.view.counters, self.view.cache = self.counters, self.handle
    self.view.recent = recent_of(self.counters)
    self.entered = true
  end
  return true
end

---Looks into L1 for a value whose bytes are the value: the whole of a hit on a string.
---@param view ffi.cdata* struct gorge_view, whose cache is not NULL
---@param key string
---@return integer status GORGE_HIT: see the second result; GORGE_MISS, GORGE_SPACE or a failure
---@return string|nil value nil: the bytes in view.read are to be decoded
function _M.look(view, key)
  local read = view.read
  local status = gorge_get(view.cache, key, #key, read)
  -- tobit: the same number, but as an integer, which it then stays all the way.
  if status == HIT and tobit(read.kind) == tobit(view.plain) then
    return status, ffi_string(read.buf, tobit(read.len))
  end
  return status
end

---Looks into L1.
---@return integer status GORGE_HIT, GORGE_MISS or a failure; details in self.read
function _M:get(key)
  local read = self.read
  local status = C.gorge_get(self.handle, key, #key, read)
  while status == SPACE do
    self:grow(read.len + 4096)
    status = C.gorge_get(self.handle, key, #key, read)
  end
  return status
end

function _M:peek(key)
  local read = self.read
  local status = C.gorge_peek(self.handle, key, #key, read)
  while status == SPACE do
    self:grow(read.len + 4096)
    status = C.gorge_peek(self.handle, key, #key, read)
  end
  return status
end

---Looks into L1 for a value that expired at most `stale_ms` ago.
---@return integer status GORGE_STALE, GORGE_HIT, GORGE_MISS or a failure
function _M:stale(key, stale_ms)
  local read = self.read
  local status = C.gorge_stale(self.handle, key, #key, stale_ms, read)
  while status == SPACE do
    self:grow(read.len + 4096)
    status = C.gorge_stale(self.handle, key, #key, stale_ms, read)
  end
  return status
end

---A copy of `read`, for who may yield before using it.
function _M:copy_read()
  return ffi_new("struct gorge_read", self.read)
end

---The bytes that the last call delivered.
---@return string
function _M:bytes()
  local bytes = ffi_string(self.read.buf, self.read.len) -- not a tail call: see hosts/nginx.lua
  return bytes
end

---Tag names of a resident entry.
---@return string[]
function _M:peek_tags(key)
  local size = C.GORGE_TAGS_MAX * (C.GORGE_TAG_MAX + 1)
  local buf = ffi_new("char[?]", size)
  local len = tonumber(C.gorge_peek_tags(self.handle, key, #key, buf, size))
  local tags, at = {}, 0
  while at < len do
    local n = ffi.cast("uint8_t *", buf)[at]
    tags[#tags + 1] = ffi_string(buf + at + 1, n)
    at = at + 1 + n
  end
  return tags
end

---Status of an operation; a result's bytes are in self.read.
---@param op integer
---@return integer
function _M:status(op)
  local read = self.read
  local status = C.gorge_op_status(self.handle, op, read)
  while status == SPACE do
    self:grow(read.len + 4096)
    status = C.gorge_op_status(self.handle, op, read)
  end
  return status
end

---@param flags integer enum gorge_fetch_flag
---@param stale_ms number|nil with GORGE_FETCH_STALE
---@return integer op 0 when status is a failure
---@return integer status
function _M:start_fetch(key, tags, lease_ms, wait_ms, flags, stale_ms)
  local rq, out = self.fetch, self.op_out
  rq.key, rq.key_len = key, #key
  rq.tags, rq.tags_len = tags, #tags
  rq.lease_ms, rq.wait_ms, rq.flags, rq.stale_ms = lease_ms, wait_ms, flags, stale_ms or 0
  local status = C.gorge_fetch_start(self.handle, rq, out)
  return tonumber(out[0]), status
end

---More of the life of what is stored next than its ttl, in milliseconds; 0: none.
---@param stale_ms number how long it is kept after its end
---@param refresh_ms number how long before its end it is due for a refresh
---@param load_ms number how long its loader took
function _M:prepare(stale_ms, refresh_ms, load_ms)
  local store = self.store
  store.stale_ms, store.refresh_ms, store.load_ms = stale_ms, refresh_ms, load_ms
end

local function set_store(store, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  store.value, store.value_len, store.kind = bytes, #bytes, kind
  l2_bytes = l2_bytes or ""
  store.l2_value, store.l2_len, store.l2_kind = l2_bytes, #l2_bytes, l2_kind or kind
  store.ttl_ms, store.l1_ttl_ms = ttl_ms, l1_ttl_ms
end

---The loader's value, encoded. Its life beyond the ttl is that of the last `prepare`, as for all that store.
---@param tags string|nil packed; nil: those of the fetch
---@return integer status
function _M:fill(op, tags, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  local store = self.store
  store.key, store.key_len = nil, 0
  store.tags, store.tags_len = tags, tags and #tags or 0
  set_store(store, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  return C.gorge_fetch_fill(self.handle, op, store, self.read)
end

function _M:start_set(key, tags, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  local store, out = self.store, self.op_out
  store.key, store.key_len = key, #key
  store.tags, store.tags_len = tags, #tags
  set_store(store, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  local status = C.gorge_set_start(self.handle, store, out)
  return tonumber(out[0]), status
end

---A set without Redis: done when it returns.
---@return integer status
function _M:put(key, tags, l1_ttl_ms, kind, bytes)
  local store = self.store
  store.key, store.key_len = key, #key
  store.tags, store.tags_len = tags, #tags
  store.value, store.value_len, store.kind = bytes, #bytes, kind
  store.l1_ttl_ms, store.ttl_ms = l1_ttl_ms, l1_ttl_ms
  local status = C.gorge_set_start(self.handle, store, self.op_out) -- not a tail call: see hosts/nginx.lua
  return status
end

function _M:start_delete(key)
  local status = C.gorge_delete_start(self.handle, key, #key, self.op_out)
  return tonumber(self.op_out[0]), status
end

function _M:start_invalidate(tags)
  local status = C.gorge_invalidate_start(self.handle, tags, #tags, self.op_out)
  return tonumber(self.op_out[0]), status
end

function _M:start_clear()
  local status = C.gorge_clear_start(self.handle, self.op_out)
  return tonumber(self.op_out[0]), status
end

function _M:start_touch(key, ttl_ms, l1_ttl_ms)
  local status = C.gorge_touch_start(self.handle, key, #key, ttl_ms, l1_ttl_ms, self.op_out)
  return tonumber(self.op_out[0]), status
end

---@return integer op 0 when status is a failure
---@return integer status GORGE_HIT, GORGE_MISS, GORGE_PENDING or a failure
function _M:start_update(key, tags)
  local status = C.gorge_update_start(self.handle, key, #key, tags, #tags, self.op_out)
  return tonumber(self.op_out[0]), status
end

function _M:update(op, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  local store = self.store
  store.key, store.key_len = nil, 0
  store.tags, store.tags_len = nil, 0
  set_store(store, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  return C.gorge_update_store(self.handle, op, store, self.read)
end

function _M:update_unknown(op)
  return C.gorge_update_unknown(self.handle, op) == 1
end

function _M:joinable(op)
  return C.gorge_op_joinable(self.handle, op) == 1
end

---Other nodes wait for the lease in Redis that both give back.
function _M:fail(op, message)
  local status = C.gorge_fetch_fail(self.handle, op, message, #message)
  self.host.kick(self)
  return status
end

function _M:skip(op)
  local status = C.gorge_fetch_skip(self.handle, op)
  self.host.kick(self)
  return status
end

---Asks for leave to run a loader.
---@param wait_ms number how long it may wait for it
---@param longest_ms number a run that takes longer counts as failed
---@return integer run 0 when status is a failure without an operation
---@return integer status
function _M:start_run(wait_ms, longest_ms)
  local status = C.gorge_origin_start(self.handle, wait_ms, longest_ms, self.op_out)
  return tonumber(self.op_out[0]), status
end

---The loader of a fetch begins to run now, or is not run at all.
---@param runs boolean
function _M:mark(op, runs)
  C.gorge_fetch_mark(self.handle, op, runs and 1 or 0)
end

function _M:run(op)
  return C.gorge_fetch_run(self.handle, op)
end

---Ends the caller's interest in an operation.
function _M:free(op)
  local place = op % SLOTS + 1
  local flight = self.shared[place]
  if flight and flight.op == op then
    self.shared[place] = false
  end
  C.gorge_op_free(self.handle, op)
end

---Who else waits for the operation: lost() is called when it goes away without its coroutine.
---@param flight { op: integer, lost: fun(self: table) }
function _M:share(op, flight)
  local place = op % SLOTS + 1
  local before = self.shared[place]
  if before and before ~= flight then -- its operation has gone, and nobody has looked around since
    before:lost()
  end
  self.shared[place] = flight
end

---Who waits for the operation, until unlisten: signal() is called when its status may have changed, or `waiter` signalled, for which that does so.
---@param listener { op: integer, signal: fun(self: table) }
---@param waiter gorge.Waiter
function _M:listen(op, listener, waiter)
  self.waiters[op % SLOTS + 1] = listener
  self.host.watch(self, op, waiter)
end

function _M:unlisten(op, listener)
  local place = op % SLOTS + 1
  if self.waiters[place] == listener then
    self.waiters[place] = false
    self.host.unwatch(self, op)
  end
end

---Moves on what can be moved, and signals the waiters of operations whose status changed.
function _M:poll()
  local events, waiters, shared = self.events, self.waiters, self.shared
  repeat
    local n = C.gorge_poll(self.handle, events, EVENTS)
    for i = 0, n - 1 do
      local op = tonumber(events[i])
      local place = op % SLOTS + 1
      local waiter = waiters[place]
      if waiter and waiter.op == op then
        waiter:signal()
      end
      local flight = shared[place]
      if flight and flight.op == op and C.gorge_op_status(self.handle, op, nil) == ERR_ARGUMENT then
        shared[place] = false
        flight:lost()
      end
    end
  until n < EVENTS
  self.host.kick(self)
  if self.after_poll then
    self.after_poll()
  end
end

---Waits until the waiter is signalled, or for so long; then it looks around.
---@param waiter gorge.Waiter
---@param ms number
function _M:pause(waiter, ms)
  if not waiter:wait(ms / 1000) then
    local now_ms = C.gorge_now_ms()
    if now_ms ~= self.polled_ms then -- one look a tick is enough, however many wait
      self.polled_ms = now_ms
      self:poll()
    end
  end
end

---Whether a fetch waits for somebody else's fill.
function _M:elsewhere(op)
  return C.gorge_op_elsewhere(self.handle, op) == 1
end

---Waits until the operation is decided.
---@param op integer
---@param status integer as start returned it
---@return integer status
function _M:wait(op, status)
  if status ~= PENDING then
    return status
  end
  local host = self.host
  local waiter = host.waiter()
  waiter.op = op
  self:listen(op, waiter, waiter)
  host.kick(self)
  host.expect(self)
  repeat
    local wait_ms = C.gorge_op_wait_ms(self.handle, op) -- 0: decided meanwhile
    if wait_ms > 0 then
      self:pause(waiter, wait_ms)
    end
    status = self:status(op)
  until status ~= PENDING
  self:unlisten(op, waiter)
  waiter:release()
  return status
end

---Operations of this process that are not decided yet.
function _M:pending()
  return C.gorge_pending(self.handle)
end

---Ends what runs for the engine. Coroutines that still wait for it find that their operations are gone; the handle itself goes with the garbage.
function _M:close()
  self.closed = true
  self.view.cache = nil
  C.gorge_cache_close(self.handle)
end

_M.PENDING, _M.HIT = PENDING, HIT

return _M
