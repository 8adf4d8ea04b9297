-- SPDX-License-Identifier: MIT
-- The options of `redis` that concern sentinels: checks of each, and what they must have to do with one another.

local check = require "gorge.check"
local redis_url = require "gorge.redis_url"
local text = require "gorge.text"

local concat = table.concat
local find = string.find
local match = string.match
local type = type

local _M = {}

local DEFAULT_PORT = 26379
local MOST = 16
local MAX_MASTER = 128

local LIST_ACCEPTS = ('an array of 1 to %d addresses such as "sentinel-1:26379"'):format(MOST)
local MASTER_ACCEPTS = ("the name that the sentinels know it by, 1 to %d printable characters without blanks"):format(MAX_MASTER)
local ADDRESS_ACCEPTS = '"host:port" (a name, an IPv4 address, or an IPv6 address in brackets)'

---@class gorge.SentinelAddress
---@field host string
---@field port integer

---@param address any
---@return gorge.SentinelAddress|nil
local function parse_address(address)
  if type(address) ~= "string" then
    return nil
  end
  local host, port = match(address, "^%[([%x:.]*:[%x:.]*)%](.*)$")
  if not host then
    host, port = match(address, "^([^:]*)(.*)$")
  end
  local digits = port == "" and "" or match(port, "^:(%d%d?%d?%d?%d?)$")
  local number = digits == "" and DEFAULT_PORT or tonumber(digits)
  if not redis_url.is_host(host) or not number or number < 1 or number > 65535 then
    return nil
  end
  return { host = host, port = number }
end

---@param value any
---@return gorge.SentinelAddress[]|nil
---@return string? problem
function _M.check_list(value, name)
  if type(value) ~= "table" or #value < 1 or #value > MOST then
    local got = type(value) == "table" and ("%d of them"):format(#value) or text.describe(redis_url.masked(value))
    return nil, "option '" .. name .. "' must be " .. LIST_ACCEPTS .. ", got " .. got
  end
  local list = {}
  for key in next, value do
    if type(key) ~= "number" or key < 1 or key > #value or key % 1 ~= 0 then
      return nil, "option '" .. name .. "' must be " .. LIST_ACCEPTS .. ", got a table with the key " .. text.describe(key)
    end
  end
  for i = 1, #value do
    list[i] = parse_address(value[i])
    if not list[i] then
      return nil, check.mismatch(name .. "[" .. i .. "]", ADDRESS_ACCEPTS, redis_url.masked(value[i]))
    end
  end
  return list
end

---@return string|nil
---@return string? problem
function _M.check_master(value, name)
  if type(value) == "string" and #value <= MAX_MASTER and find(value, "^[\33-\126]+$") then
    return value
  end
  return nil, check.mismatch(name, MASTER_ACCEPTS, redis_url.masked(value))
end

---What does not go together.
---@param out table checked options of redis
---@return string|nil problem
function _M.problem(out)
  if not out.sentinels then
    for _, name in ipairs { "master", "sentinel_username", "sentinel_password" } do
      if out[name] then
        return "option 'redis." .. name .. "' needs 'redis.sentinels' too"
      end
    end
    return nil
  end
  for _, name in ipairs { "host", "port", "path" } do
    if out[name] then
      return "options 'redis.sentinels' and 'redis." .. name .. "' exclude each other: the sentinels tell where the master is"
    end
  end
  if not out.master then
    return "option 'redis.sentinels' needs 'redis.master', the name that the sentinels know the master by"
  elseif out.sentinel_username and not out.sentinel_password then
    return "option 'redis.sentinel_username' needs 'redis.sentinel_password' too"
  end
  return nil
end

local function join(list, separator, format)
  local parts = {}
  for i, address in ipairs(list) do
    local host = format == "%s:%d" and find(address.host, ":", 1, true) and "[" .. address.host .. "]" or address.host
    parts[i] = format:format(host, address.port)
  end
  return concat(parts, separator)
end

---For people: never a user or a password.
---@param out table checked options of redis
---@return string
function _M.display(out)
  return ("master '%s' of the sentinels %s, database %d"):format(out.master, join(out.sentinels, ", ", "%s:%d"), out.db)
end

---What the core takes.
---@param list gorge.SentinelAddress[]
---@return string
function _M.lines(list)
  return join(list, "\n", "%s %d") .. "\n"
end

return _M
