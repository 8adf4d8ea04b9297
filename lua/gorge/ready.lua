-- SPDX-License-Identifier: MIT
-- The engine of a cache, ready in this process, for calls that need it.

local _M = {}

---@param cache gorge.Cache
---@return gorge.Engine|nil
---@return string|nil err
function _M.engine_of(cache)
  local engine = cache.engine
  if not engine then -- closed, in a method that the program has kept, or while a call was under way
    return nil, "closed"
  end
  local ok, err = cache.host.enter(engine)
  if not ok then
    return nil, "gorge: " .. err
  end
  return engine
end

return _M
