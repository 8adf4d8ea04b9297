-- SPDX-License-Identifier: MIT
-- A zone seen from outside: finds the zones of this machine's processes, and reads one of them. For the command line.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"

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

---@param path string
---@param copy boolean the file may be anybody's: looked at as a copy
---@return gorge.Visitor|nil
---@return string? err
---@return integer? status of gorge_visit
function _M.attach(path, copy)
  local out, err = ffi.new "gorge_visitor *[1]", ffi.new("char[?]", ERROR_SIZE)
  local status = C.gorge_visit(path, copy and C.GORGE_VISIT_COPY or 0, out, err, ERROR_SIZE)
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

return _M
