-- SPDX-License-Identifier: MIT
-- The options of `redis` that concern sentinels: checks of each, and what they must have to do with one another.

local addresses = require "gorge.addresses"
local check = require "gorge.check"
local redis_url = require "gorge.redis_url"

local find = string.find
local type = type

local _M = {}

local DEFAULT_PORT = 26379
local MAX_MASTER = 128

local MASTER_ACCEPTS = ("the name that the sentinels know it by, 1 to %d printable characters without blanks"):format(MAX_MASTER)

_M.check_list = addresses.list(DEFAULT_PORT, "sentinel-1:26379")

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
  elseif out.tls and out.tls.verify and not out.tls.server_name then
    return "option 'redis.tls' needs 'server_name' with sentinels: what the certificates of master and sentinels are for"
  end
  return nil
end

---For people: never a user or a password.
---@param out table checked options of redis
---@return string
function _M.display(out)
  return ("master '%s' of the sentinels %s, database %d"):format(out.master, addresses.display(out.sentinels), out.db)
end

return _M
