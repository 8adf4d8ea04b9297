-- SPDX-License-Identifier: MIT
--- Invalidates a tag that many keys carry. Runs inside nginx.
---
--- Every key carries as many tags as there are runs (and one to warm up with), so that each run invalidates a tag that all of them carry.
local clock = require "spec.bench.clock"

local _M = {}

local IN_FLIGHT = 50
local PROBES = 100

local function tags_of(side, runs)
  local tags = {}
  for i = 0, runs do
    tags[i + 1] = side.name .. ":" .. i
  end
  return tags
end

function _M.open(bench, side, load)
  local cache = bench.cache
  local keys = bench.keys
  local n = math.min(side.keys or #keys, #keys)
  local used = 0
  local tags = tags_of(side, bench.runs)

  local function key_of(i)
    return side.keys and keys[i] .. ":few" or keys[i]
  end

  local function present()
    local found = 0
    for i = 1, n, math.max(1, math.floor(n / PROBES)) do
      found = found + (cache:get(key_of(i)) ~= nil and 1 or 0)
    end
    return found
  end

  local function store()
    local next_one, threads = 0, {}
    for t = 1, bench.row.redis and IN_FLIGHT or 1 do
      threads[t] = ngx.thread.spawn(function()
        while next_one < n do
          next_one = next_one + 1
          local key = key_of(next_one)
          assert(cache:set(key, load(key), 3600, tags))
        end
      end)
    end
    for _, thread in ipairs(threads) do
      assert(ngx.thread.wait(thread))
    end
    assert(present() > 0, "the values with the tag are not there")
  end

  return {
    prepare = store,
    run = function()
      used = used + 1
      local started = clock.now()
      local ok, err = cache:invalidate_tags(tags[used])
      local seconds = clock.now() - started
      assert(ok, err)
      assert(present() == 0, "values outlived their tag")
      return { ops = 1, good = 1, seconds = seconds }
    end,
  }
end

return _M
