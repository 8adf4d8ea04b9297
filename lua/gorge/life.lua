-- SPDX-License-Identifier: MIT
-- How long a value that is about to be stored lives, in Redis and in L1.

local C = require "gorge.ffi.lib"

local _M = {}

---Values that are stored together need not expire together: each life is cut by a random part, at most `share` of it. L1's life is cut in the same
---proportion, also where `l1_ttl` bounds it.
---@param ttl_ms number
---@param l1_max_ms number
---@param share number 0 to 1: expiration_jitter
---@return number ttl_ms
---@return number l1_ttl_ms
function _M.of(ttl_ms, l1_max_ms, share)
  local l1_ttl_ms = ttl_ms < l1_max_ms and ttl_ms or l1_max_ms
  if share == 0 then
    return ttl_ms, l1_ttl_ms
  end
  local part = 1 - share * C.gorge_random_unit()
  return ttl_ms * part, l1_ttl_ms * part -- the core takes what is below a millisecond for one
end

---How long before its end a value is due for a refresh: stale_ttl, but half of a life that is not longer than that, or it would be due from the
---moment that it was stored.
---@param ttl_ms number
---@param parsed gorge.ParsedOptions
---@param stale_ttl_ms number|nil instead of the cache's
---@return number 0: never
function _M.refresh(ttl_ms, parsed, stale_ttl_ms)
  if not parsed.stale_while_revalidate then
    return 0
  end
  local ahead_ms = stale_ttl_ms or parsed.stale_ttl_ms
  return ahead_ms < ttl_ms and ahead_ms or ttl_ms / 2
end

return _M
