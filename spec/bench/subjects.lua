-- SPDX-License-Identifier: MIT
--- Who is measured: each in the way a handler uses it, the cache held in an upvalue. Runs inside nginx.
---
--- A subject is opened with the row's loader and returns functions (keys, first, last) → how many went well; each is called with pieces of the
--- prepared draws. A row has a process of its own, so each of these loops is compiled for what it is used for there.
local bit = require "bit"
local cjson = require "cjson"

local band = bit.band

local TTL = 600
local VALUES = 256 -- different values that sets store, made beforehand; a power of two
local LRU_ITEMS = 10000 -- as many as gorge keeps in L0 by default

local _M = {}

-- Before the workers are forked.
---@param row gorge.bench.Row
---@param redis table|nil option of gorge.new
function _M.create(row, redis)
  local options = { namespace = "bench", redis = redis }
  for name, value in pairs(row.cache) do
    options[name] = value
  end
  _M.cache = assert(require("gorge").new(options))
end

---@param load fun(key: string): any
---@return any[]
local function values_of(load)
  local values = {}
  for i = 1, VALUES do
    values[i] = load(("value:%014d"):format(i))
  end
  return values
end

local function gorge(load)
  local cache = _M.cache
  local values = values_of(load)
  return {
    fetch = function(keys, first, last)
      local found = 0
      for i = first, last do
        local value = cache:fetch(keys[i], TTL, load)
        if value ~= nil then
          found = found + 1
        end
      end
      return found
    end,
    set = function(keys, first, last)
      local done = 0
      for i = first, last do
        if cache:set(keys[i], values[band(i, VALUES - 1) + 1], TTL) then
          done = done + 1
        end
      end
      return done
    end,
    mix = function(keys, first, last)
      local good = 0
      for i = first, last do
        local result
        if i % 20 == 0 then
          result = cache:set(keys[i], values[band(i, VALUES - 1) + 1], TTL)
        else
          result = cache:fetch(keys[i], TTL, load)
        end
        if result ~= nil then
          good = good + 1
        end
      end
      return good
    end,
  }
end

local function shared(load)
  local dict = ngx.shared.peer
  local values = values_of(load)
  return {
    fetch = function(keys, first, last)
      local found = 0
      for i = first, last do
        local key = keys[i]
        local value = dict:get(key)
        if value == nil then
          value = load(key)
          dict:set(key, value, TTL)
        end
        if value ~= nil then
          found = found + 1
        end
      end
      return found
    end,
    set = function(keys, first, last)
      local done = 0
      for i = first, last do
        if dict:set(keys[i], values[band(i, VALUES - 1) + 1], TTL) then
          done = done + 1
        end
      end
      return done
    end,
    mix = function(keys, first, last)
      local good = 0
      for i = first, last do
        local key = keys[i]
        local result
        if i % 20 == 0 then
          result = dict:set(key, values[band(i, VALUES - 1) + 1], TTL)
        else
          result = dict:get(key)
          if result == nil then
            result = load(key)
            dict:set(key, result, TTL)
          end
        end
        if result ~= nil then
          good = good + 1
        end
      end
      return good
    end,
  }
end

local function shared_json(load)
  local dict = ngx.shared.peer
  local decode, encode = cjson.decode, cjson.encode
  return {
    fetch = function(keys, first, last)
      local found = 0
      for i = first, last do
        local key = keys[i]
        local text = dict:get(key)
        local value
        if text == nil then
          value = load(key)
          dict:set(key, encode(value), TTL)
        else
          value = decode(text)
        end
        if value ~= nil then
          found = found + 1
        end
      end
      return found
    end,
    set = function(keys, first, last)
      for i = first, last do
        dict:set(keys[i], encode(load(keys[i])), TTL)
      end
      return last - first + 1
    end,
  }
end

local function lrucache(load)
  local lru = assert(require("resty.lrucache").new(LRU_ITEMS))
  return {
    fetch = function(keys, first, last)
      local found = 0
      for i = first, last do
        local key = keys[i]
        local value = lru:get(key)
        if value == nil then
          value = load(key)
          lru:set(key, value, TTL)
        end
        if value ~= nil then
          found = found + 1
        end
      end
      return found
    end,
    set = function(keys, first, last)
      for i = first, last do
        lru:set(keys[i], load(keys[i]), TTL)
      end
      return last - first + 1
    end,
  }
end

local function mlcache(load, lru_size)
  local cache = assert(require("resty.mlcache").new("bench", "peer", { lru_size = lru_size, ttl = TTL, shm_locks = "bench" }))
  local options = { ttl = TTL }
  return {
    fetch = function(keys, first, last)
      local found = 0
      for i = first, last do
        local key = keys[i]
        local value = cache:get(key, options, load, key)
        if value ~= nil then
          found = found + 1
        end
      end
      return found
    end,
    set = function(keys, first, last)
      for i = first, last do
        assert(cache:get(keys[i], options, load, keys[i]))
      end
      return last - first + 1
    end,
  }
end

local subjects = {
  gorge = gorge, shared = shared, shared_json = shared_json, lrucache = lrucache,
  mlcache = function(load) return mlcache(load, LRU_ITEMS) end,
  mlcache_shm = function(load) return mlcache(load, 1) end, -- keys in turn: its lrucache never has the one asked for
}

---@param name string
---@param load fun(key: string): any
---@return table<string, fun(keys: string[], first: integer, last: integer): integer>
function _M.open(name, load)
  return subjects[name](load)
end

return _M
