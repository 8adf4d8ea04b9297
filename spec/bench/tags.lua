-- SPDX-License-Identifier: MIT
--- Invalidates a tag that many keys carry. Runs inside nginx.
---
--- With Redis one value is stored through the cache, and Redis copies it to the other keys: a million writes one by one would take a minute.
--- Every key carries as many tags as there are runs (and one to warm up with), so that each run invalidates a tag that all of them carry.
local clock = require "spec.bench.clock"

local _M = {}

local PROBES = 100
local COPIES = 100000 -- in one run of the script

local COPY = [[
  local value, ttl = redis.call("GET", KEYS[1]), redis.call("PTTL", KEYS[1])
  for i = ARGV[3], ARGV[4] do
    redis.call("SET", ARGV[1] .. string.format("user:%015d", i) .. ARGV[2], value, "PX", ttl)
  end
  return 1]]

---@param redis { host: string, port: integer }
local function command(redis, ...)
  local parts = { "*" .. select("#", ...) .. "\r\n" }
  for i = 1, select("#", ...) do
    local word = tostring((select(i, ...)))
    parts[i + 1] = "$" .. #word .. "\r\n" .. word .. "\r\n"
  end
  local sock = ngx.socket.tcp()
  sock:settimeout(30000)
  assert(sock:connect(redis.host, redis.port))
  assert(sock:send(parts))
  local reply = assert(sock:receive())
  if reply:sub(1, 1) == "$" then
    reply = assert(sock:receive(tonumber(reply:sub(2))))
  end
  sock:close()
  assert(reply:sub(1, 1) ~= "-", reply)
  return reply
end

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

  local suffix = side.keys and ":few" or ""

  local function key_of(i)
    return keys[i] .. suffix
  end

  local function present()
    local found = 0
    for i = 1, n, math.max(1, math.floor(n / PROBES)) do
      found = found + (cache:get(key_of(i)) ~= nil and 1 or 0)
    end
    return found
  end

  local function store()
    for i = 1, bench.redis and 1 or n do
      assert(cache:set(key_of(i), load(key_of(i)), 3600, tags))
    end
    local epoch = bench.redis and command(bench.redis, "GET", "{5:bench:0}:e") -- README.md, Redis
    for first = 1, bench.redis and n or 0, COPIES do
      local prefix = ("{5:bench:0}:%s:v:"):format(epoch)
      command(bench.redis, "EVAL", COPY, 1, prefix .. key_of(1), prefix, suffix, first, math.min(first + COPIES - 1, n))
    end
    assert(present() >= PROBES, "the values with the tag are not there")
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
