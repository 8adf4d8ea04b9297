-- SPDX-License-Identifier: MIT
-- A zone seen from outside: finds the zones of this machine's processes, and reads one of them. For the command line.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local explained = require "gorge.ffi.explained"

local ERROR_SIZE = 256
local FIRST_FOUND, MOST_FOUND = 256, 65536
local FIRST_BUFFER = 16384

local _M = {}

---@class gorge.Visitor
---@field handle ffi.cdata* gorge_visitor *
---@field zone string
local Visitor = {}
Visitor.__index = Visitor

-- What gorge_visit answers, as an exit status sees it.
_M.MISMATCH, _M.PROTOCOL, _M.SYSTEM = tonumber(C.GORGE_ERR_MISMATCH), tonumber(C.GORGE_ERR_PROTOCOL), tonumber(C.GORGE_ERR_SYSTEM)

---@class gorge.Found
---@field path string
---@field name string "" when only the header tells it
---@field id string the same for all processes that have the same zone open
---@field pid integer
---@field parent integer
---@field user integer

---The zones that other processes have open, one record for each zone and process.
---@return gorge.Found[]|nil
---@return integer|string hidden how many processes this user may not look at; or why nothing can be found
function _M.find()
  local size = FIRST_FOUND
  local records, count, hidden, status
  repeat
    records, count, hidden = ffi.new("struct gorge_found[?]", size), ffi.new "uint32_t[1]", ffi.new "uint32_t[1]"
    status = C.gorge_find_zones(records, size, count, hidden)
    size = size * 4
  until status ~= C.GORGE_SPACE or size > MOST_FOUND
  if status < 0 then
    return nil, "there is no /proc to look for processes in"
  end
  local list = {}
  for i = 0, count[0] - 1 do
    local r = records[i]
    list[#list + 1] = {
      path = ffi.string(r.path),
      name = ffi.string(r.name),
      id = ("%.0f:%.0f"):format(tonumber(r.device), tonumber(r.inode)),
      pid = r.pid,
      parent = r.parent,
      user = r.user,
    }
  end
  return list, hidden[0]
end

local MODES = { look = 0, copy = C.GORGE_VISIT_COPY, mail = C.GORGE_VISIT_MAIL, work = C.GORGE_VISIT_ALL }

---@param path string
---@param mode "look"|"copy"|"mail"|"work" read it; read a copy of a file that may be anybody's; write to its mailbox; write all of it
---@return gorge.Visitor|nil
---@return string? err
---@return integer? status of gorge_visit
function _M.attach(path, mode)
  local out, err = ffi.new "gorge_visitor *[1]", ffi.new("char[?]", ERROR_SIZE)
  local status = C.gorge_visit(path, MODES[mode], out, err, ERROR_SIZE)
  if status ~= 0 then
    local said = ffi.string(err)
    return nil, said ~= "" and said or ffi.string(C.gorge_status_phrase(status)), status
  end
  local handle = ffi.gc(out[0], C.gorge_visit_end)
  return setmetatable({ handle = handle, zone = ffi.string(C.gorge_visited_zone(handle)) }, Visitor)
end

function Visitor:close()
  if self.handle then
    C.gorge_visit_end(ffi.gc(self.handle, nil))
    self.handle = nil
  end
end

---@return { name: string, number: integer, redis: boolean, redis_free: boolean }[]
function Visitor:namespaces()
  local out = ffi.new("struct gorge_namespace[?]", C.GORGE_NAMESPACES_MAX)
  local list = {}
  for i = 0, C.gorge_visit_namespaces(self.handle, out) - 1 do
    local uses = out[i].uses
    list[#list + 1] = {
      name = ffi.string(out[i].name),
      number = out[i].number,
      redis = bit.band(uses, C.GORGE_NAMESPACE_REDIS) ~= 0,
    }
  end
  return list
end

---@param ns integer
---@return ffi.cdata*|nil struct gorge_stats
function Visitor:stats(ns)
  local raw = ffi.new "struct gorge_stats"
  return C.gorge_visit_stats(self.handle, ns, raw) == 0 and raw or nil
end

---The breakers of a cluster's nodes that are not closed. `state` as that of struct gorge_stats; `host` is nil where nobody has told.
---@param ns integer
---@return { host: string|nil, port: integer, state: integer }[]
function Visitor:node_breakers(ns)
  local out = ffi.new("struct gorge_node_breaker[?]", C.GORGE_NODE_BREAKERS_MAX)
  local list = {}
  for i = 0, C.gorge_visit_node_breakers(self.handle, ns, out) - 1 do
    local host = ffi.string(out[i].host)
    list[#list + 1] = { host = host ~= "" and host or nil, port = out[i].port, state = out[i].breaker }
  end
  return list
end

---Whether some process works in the zone now.
---@return boolean
function Visitor:has_workers()
  return C.gorge_visit_workers(self.handle) > 0
end

local KINDS = {
  [0] = "nothing", "string", "number", "boolean", "json", "table", "custom", "struct", "typed table", "msgpack", "compressed",
}

---What L1 holds of a key.
---@param ns integer
---@param key string
---@return table|nil
function Visitor:peek(ns, key)
  local read = ffi.new "struct gorge_read"
  local size = FIRST_BUFFER
  local buf, status
  repeat
    buf = ffi.new("char[?]", size)
    read.buf, read.buf_size = buf, size
    status = C.gorge_visit_peek(self.handle, ns, key, #key, read)
    size = read.len + 4096
  until status ~= C.GORGE_SPACE
  if status ~= C.GORGE_HIT then
    return nil
  end
  return {
    ttl = math.max(0, (read.expires_ms - C.gorge_now_ms()) / 1000),
    kind = KINDS[read.kind] or "unknown",
    size = read.len,
    value = ffi.string(buf, read.len),
    version = read.version ~= 0 and ("%.0f"):format(tonumber(read.version)) or nil,
    tags = self:tags(ns, key),
  }
end

---@param ns integer
---@param key string
---@return string[]
function Visitor:tags(ns, key)
  local size = C.GORGE_TAGS_MAX * (C.GORGE_TAG_MAX + 1)
  local buf = ffi.new("uint8_t[?]", size)
  local len = C.gorge_visit_tags(self.handle, ns, key, #key, ffi.cast("char *", buf), size)
  local tags, at = {}, 0
  while at < len do
    tags[#tags + 1] = ffi.string(buf + at + 1, buf[at])
    at = at + 1 + buf[at]
  end
  return tags
end

---What the host holds of a key, whether or not a worker would find it; see ffi/explained.lua.
---@param ns integer
---@param key string 1 to 8192 bytes
---@return { l1: table, tags: table[], flight: table|nil, freshness: table }
function Visitor:explain(ns, key)
  local look = ffi.new "struct gorge_host_look"
  C.gorge_visit_explain(self.handle, ns, key, #key, look)
  return explained.host(look)
end

-- Hot keys ---------------------------------------------------------------------------------------------------------------------

local HOT_MAX = 2048
local hot_records

---What a record says, for Lua.
local function hot_of(r)
  return {
    ns = r.ns,
    key = ffi.string(r.key, math.min(r.key_len, C.GORGE_HOT_KEY_MAX)),
    length = r.key_len,
    hits = tonumber(r.hits),
    frequency = r.frequency,
    size = r.size,
    ttl = math.max(0, (r.expires_ms - C.gorge_now_ms()) / 1000),
  }
end

local function list_of(count)
  local list = {}
  for i = 0, count - 1 do
    list[#list + 1] = hot_of(hot_records[i])
  end
  return list
end

local function records()
  hot_records = hot_records or ffi.new("struct gorge_hot[?]", HOT_MAX)
  return hot_records
end

---What `uses` has to remember between two calls.
---@return ffi.cdata*
function _M.uses_cursor()
  return ffi.new "struct gorge_uses_cursor"
end

---Some of the latest hits of workers that had any since the last call with the same cursor.
---@param cursor ffi.cdata*
---@return { ns: integer, key: string, length: integer, hits: number, frequency: integer, size: integer, ttl: number }[]
function Visitor:uses(cursor)
  return list_of(C.gorge_visit_uses(self.handle, cursor, records(), HOT_MAX))
end

---The same for a worker's cache.
---@param handle ffi.cdata* gorge_cache *
function _M.uses_of_cache(handle, cursor)
  return list_of(C.gorge_uses_read(handle, cursor, records(), HOT_MAX))
end

---The entries that L1 finds used most, of the next `slots` places; the cursor goes round.
---@param cursor ffi.cdata*
---@param slots integer
---@param max integer at most 1024
---@return table[]
function Visitor:frequent(cursor, slots, max)
  return list_of(C.gorge_visit_frequent(self.handle, cursor, slots, records(), max))
end

---What `frequent` has to remember.
---@return ffi.cdata*
function _M.frequent_cursor()
  return ffi.new "uint64_t[1]"
end

-- Events -----------------------------------------------------------------------------------------------------------------------

local EVENTS_MAX = 256
local EVENT_KINDS = { "key", "tag", "clear", "resync" }
local EVENT_SOURCES = { [0] = "heard", "here", "queued" }

---A cursor behind the last event.
---@return ffi.cdata*
function Visitor:events_begin()
  local cursor = ffi.new "struct gorge_events_cursor"
  C.gorge_visit_events_begin(self.handle, cursor)
  return cursor
end

---Events since the last call.
---@return table[]
---@return integer lost how many were overwritten before they were read
function Visitor:events(cursor)
  local out, list = ffi.new("struct gorge_event[?]", EVENTS_MAX), {}
  cursor.lost = 0
  for i = 0, C.gorge_visit_events(self.handle, cursor, out, EVENTS_MAX) - 1 do
    local e = out[i]
    list[#list + 1] = {
      ago = (C.gorge_now_ms() - e.at_ms) / 1000,
      kind = EVENT_KINDS[e.kind] or "unknown",
      source = EVENT_SOURCES[e.source] or "unknown",
      ns = e.ns,
      version = e.version ~= 0 and ("%.0f"):format(tonumber(e.version)) or nil,
      name = e.len > 0 and ffi.string(e.name, math.min(e.shown, ffi.sizeof(e.name))) or nil,
      cut = e.len > e.shown,
    }
  end
  return list, tonumber(cursor.lost)
end

-- Writing ----------------------------------------------------------------------------------------------------------------------

local FORGET = { key = C.GORGE_FORGET_KEY, tag = C.GORGE_FORGET_TAG, all = C.GORGE_FORGET_ALL }
local TEXT_SIZE = 256

_M.PENDING, _M.BUSY, _M.REFUSED = tonumber(C.GORGE_PENDING), tonumber(C.GORGE_BUSY), tonumber(C.GORGE_REFUSED)

---Asks the workers to forget something, through the mailbox.
---@param ns integer
---@param what "key"|"tag"|"all"
---@param name string "" for all
---@param timeout number seconds
---@return ffi.cdata*|nil ticket
---@return integer status
function Visitor:ask(ns, what, name, timeout)
  local ticket = ffi.new "uint64_t[1]"
  local status = C.gorge_visit_ask(self.handle, ns, FORGET[what], name, #name, math.ceil(timeout * 1000), ticket)
  return status == 0 and ticket[0] or nil, status
end

---What became of it.
---@return integer status PENDING, BUSY, REFUSED, or how it ended: 0, or a failure
---@return string text
function Visitor:answer(ticket)
  local text = ffi.new("char[?]", TEXT_SIZE)
  local status = C.gorge_visit_answer(self.handle, ticket, text, TEXT_SIZE)
  return status, ffi.string(text)
end

function Visitor:cancel(ticket)
  C.gorge_visit_cancel(self.handle, ticket)
end

function Visitor:wake()
  C.gorge_visit_wake(self.handle)
end

---@return integer how many workers can take what is in the mailbox
function Visitor:listeners()
  return C.gorge_visit_listeners(self.handle)
end

---Forgets something as a worker of the zone would, in a namespace without Redis.
---@return integer status
function Visitor:forget(ns, what, name)
  return C.gorge_visit_forget(self.handle, ns, FORGET[what], name, #name)
end

---@param status integer
---@return string
function _M.phrase(status)
  return ffi.string(C.gorge_status_phrase(status))
end

return _M
