-- SPDX-License-Identifier: MIT
--- Values that Redis has: many look-ups in flight, one after another, several in one call, and in handlers. Runs inside nginx.
local clock = require "spec.bench.clock"

local _M = {}

local IN_FLIGHT = 50
local STORE_IN_FLIGHT = 100
local TTL = 600
local TOGETHER = 100

local clients = {}

function clients.gorge(bench, load)
  local cache = bench.cache
  return {
    get = function(key)
      local value, err, source = cache:fetch(key, TTL, load)
      if source ~= "l2" then
        return nil, err or "answered by " .. source
      end
      return value
    end,
    set = function(key, value) assert(cache:set(key, value, TTL)) end,
  }
end

function clients.gorge_get(bench)
  local cache = bench.cache
  return {
    get = function(key)
      local value, err, source = cache:get(key)
      if source ~= "l2" then
        return nil, err or "answered by " .. tostring(source)
      end
      return value
    end,
    set = function(key, value) assert(cache:set(key, value, TTL)) end,
  }
end

-- TOGETHER keys a call.
function clients.gorge_many(bench, load)
  local cache = bench.cache
  local client = clients.gorge(bench, load)
  client.get_many = function(keys)
    local values, errs, sources = cache:fetch_many(keys, TTL, load)
    local found = 0
    for _, key in ipairs(keys) do
      if sources[key] ~= "l2" then
        return found, errs[key] or "answered by " .. sources[key]
      end
      found = found + (values[key] and 1 or 0)
    end
    return found
  end
  return client
end

function clients.resty_redis(bench)
  local redis = require "resty.redis"
  local host, port = bench.redis.host, bench.redis.port
  local function connection()
    local client = redis:new()
    client:set_timeouts(1000, 1000, 1000)
    assert(client:connect(host, port))
    return client
  end
  return {
    get = function(key)
      local client = redis:new()
      client:set_timeouts(1000, 1000, 1000)
      local ok, err = client:connect(host, port)
      if not ok then
        return nil, err
      end
      local value
      value, err = client:get(key)
      if not value then
        return nil, err
      end
      client:set_keepalive(60000, 200)
      return value ~= ngx.null and value or nil
    end,
    set = function(key, value)
      local client = connection()
      assert(client:set(key, value, "EX", TTL))
      client:set_keepalive(60000, 200)
    end,
  }
end

local function store(client, keys, load)
  local at, threads = 0, {}
  for t = 1, STORE_IN_FLIGHT do
    threads[t] = ngx.thread.spawn(function()
      while at < #keys do
        at = at + 1
        client.set(keys[at], load(keys[at]))
      end
    end)
  end
  for _, thread in ipairs(threads) do
    assert(ngx.thread.wait(thread))
  end
end

---@return table
function _M.open(bench, side, load)
  local keys = bench.keys
  local client = clients[side.subject](bench, load)
  local share = math.floor(#keys / bench.row.workers) -- each worker has keys of its own, or one might find what another has just put into L1
  local at = 0

  local function next_key()
    at = at % share + 1
    return keys[at + bench.worker * share]
  end

  ---@return integer found
  ---@return integer asked
  local function look()
    if client.get_many then
      local several = {}
      for i = 1, TOGETHER do
        several[i] = next_key()
      end
      local found, err = client.get_many(several)
      return found, TOGETHER, err
    end
    local value, err = client.get(next_key())
    return value and 1 or 0, 1, err
  end

  local function look_up(seconds, in_flight)
    local ops, good, threads, failure = 0, 0, {}, nil
    ngx.update_time()
    local started = clock.now()
    local deadline = ngx.now() + seconds
    for t = 1, in_flight do
      threads[t] = ngx.thread.spawn(function()
        repeat
          local found, asked, err = look()
          ops, good = ops + asked, good + found
          if found < asked then
            failure = failure or tostring(err)
          end
        until ngx.now() >= deadline
      end)
    end
    for _, thread in ipairs(threads) do
      assert(ngx.thread.wait(thread))
    end
    return { ops = ops, good = good, seconds = clock.now() - started, failure = failure }
  end

  return {
    prepare = function() store(client, keys, load) end,
    handle = function()
      local value, err = client.get(next_key())
      if not value then
        ngx.status = 500
      end
      ngx.print(value or err or "not from Redis")
    end,
    run = function(request)
      return look_up(request.seconds, bench.row.task == "one_by_one" and 1 or IN_FLIGHT)
    end,
  }
end

return _M
