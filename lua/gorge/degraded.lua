-- SPDX-License-Identifier: MIT
-- A cache that is told to do less: options cache_read_disabled and cache_delete_disabled. Such a handle has methods of its own, so that
-- others do not ask.

local check = require "gorge.arguments"
local load = require "gorge.load"
local many = require "gorge.many"
local options = require "gorge.options"
local text = require "gorge.text"

local error = error
local parse_call = options.parse_call
local type = type

---`fetch` of a cache that does not read: runs `fn` for its caller alone.
local function fetch(self, key, ttl, fn, tags, opts)
  check.key_type(key, 3)
  local _, _, _, args = parse_call(opts, 2)
  check.ttl_ms(ttl, 1, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  check.loader(fn, 3)
  check.tags(tags, 3)
  local call = load.alone(self, fn, args)
  call.key = key
  local value, err, source = load.without_lease(self, call)
  return value, err, source
end

local function delete(_, key)
  check.key_type(key, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  return true
end

local function invalidate_tags(_, first, ...)
  if type(first) ~= "table" then
    first = { first, ... }
  end
  for _, tag in ipairs(first) do
    check.tags(tag, 3)
  end
  if first[1] == nil then
    error("gorge: invalidate_tags needs at least one tag, got " .. text.describe(first[1]), 2)
  end
  return true
end

local function clear()
  return true
end

local _M = {}

---Puts these methods into a handle, as its options say.
---@param cache gorge.Cache
---@param parsed gorge.ParsedOptions
function _M.apply(cache, parsed)
  if parsed.cache_read_disabled then
    cache.fetch, cache.fetch_many = fetch, many.without_cache
  end
  if parsed.cache_delete_disabled then
    cache.delete, cache.invalidate_tags, cache.clear = delete, invalidate_tags, clear
  end
end

---Takes them away: the handle is closed.
---@param cache gorge.Cache
function _M.remove(cache)
  cache.fetch_many, cache.delete, cache.invalidate_tags, cache.clear = nil, nil, nil, nil
end

return _M
