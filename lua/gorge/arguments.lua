-- SPDX-License-Identifier: MIT
-- Arguments of a cache's methods: wrong types raise at the caller's line, values that cannot work are told as errors.

local tags = require "gorge.tags"
local text = require "gorge.text"

local error = error
local type = type

local MAX_KEY = 8192
local MAX_TTL = 10 * 365 * 86400

local _M = {}

---A method that was called with a dot instead of a colon, or of something that is no cache.
---@param level integer as in error(), counted from the caller of this function
function _M.cache(self, level)
  if type(self) ~= "table" or not self.view then
    error("gorge: methods are called with a colon, as in cache:fetch(key, ...): the first argument must be the cache, got "
      .. text.describe(self), level)
  end
end

---@param level integer as in error(), counted from the caller of this function
function _M.key_type(key, level)
  if type(key) ~= "string" then
    error("gorge: key must be a string, got " .. text.describe(key), level)
  end
end

---@return string|nil problem
function _M.key_problem(key)
  if key == "" then
    return "gorge: key must not be empty"
  elseif #key > MAX_KEY then
    return "gorge: key must have at most " .. MAX_KEY .. " bytes, got " .. #key
  end
end

---@param ttl any
function _M.is_ttl(ttl)
  return type(ttl) == "number" and ttl > 0 and ttl <= MAX_TTL -- false for NaN
end

---@param ttl number|nil seconds
---@return number milliseconds, a fraction of at least 1
function _M.ttl_ms(ttl, default_ms, level)
  if ttl == nil then
    return default_ms
  elseif not _M.is_ttl(ttl) then
    error("gorge: ttl must be a number of seconds greater than 0 and at most " .. MAX_TTL .. ", got " .. text.describe(ttl), level)
  end
  local ms = ttl * 1000
  return ms < 1 and 1 or ms
end

---@return string packed
function _M.tags(value, level)
  local packed, problem = tags.pack(value)
  if not packed then
    error("gorge: " .. problem, level)
  end
  return packed
end

function _M.loader(fn, level)
  if type(fn) ~= "function" then
    local callable = getmetatable(fn)
    if not (callable and type(callable) == "table" and callable.__call) then
      error("gorge: fn must be a function, got " .. text.describe(fn), level)
    end
  end
end

return _M
