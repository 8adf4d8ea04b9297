-- SPDX-License-Identifier: MIT
-- The option `redis.cluster`: nodes of a Redis Cluster that tell where the others are, and what may not stand beside it.

local addresses = require "gorge.addresses"
local redis_url = require "gorge.redis_url"

local _M = {}

_M.check_list = addresses.list(redis_url.DEFAULT_PORT, "redis-1:6379")

---What does not go together.
---@param out table checked options of redis
---@return string|nil problem
function _M.problem(out)
  if not out.cluster then
    return nil
  end
  for _, name in ipairs { "sentinels", "host", "port", "path" } do
    if out[name] then
      return "options 'redis.cluster' and 'redis." .. name .. "' exclude each other: the nodes of a cluster tell where the others are"
    end
  end
  if out.db ~= 0 then
    return "option 'redis.db' must be 0 with 'redis.cluster': a cluster has no other database"
  end
  return nil
end

---For people: never a user or a password.
---@param out table checked options of redis
---@return string
function _M.display(out)
  return "the cluster of " .. addresses.display(out.cluster)
end

return _M
