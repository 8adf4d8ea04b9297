-- SPDX-License-Identifier: MIT
--- What `make bench` measures: one table of rows. How it is measured stands in measure.lua (driver) and worker.lua (inside nginx).
---
--- A row starts an nginx of its own, prepares the same keys and values for all of its sides, and measures the sides in turn, A B A B.
--- It prints one line for each comparison in `lines`.
local _M = {}

---@class gorge.bench.Side
---@field name string column text, unique in its row
---@field subject string who is measured: subjects.lua
---@field task? string what it does (the row's)
---@field workers? integer how many workers do it at once (the row's)
---@field keys? integer number of keys, where that differs from the row's
---@field module? string environment variable that names the folder of a Lua module which Debian does not package; unset: not measured

---@class gorge.bench.Line
---@field name? string (the row's)
---@field of? string side whose figure it is (the first)
---@field against? string|false side it is compared with (the second)
---@field metric? string (the row's) figures.lua
---@field limit? number the target: of the ratio, or of the figure itself with `absolute`
---@field absolute? boolean
---@field reference? { name: string, figure: number } read on another machine: shown where `against` is not measured
---@field fixed? boolean the target refers to `reference` itself, which nobody can measure here: the mark gets an asterisk

---@class gorge.bench.Row
---@field id string
---@field name string
---@field cache table options for gorge.new; `l1_size` is also the size of the peers' shared memory
---@field draw string order of keys: workload.lua
---@field keys integer number of different keys
---@field value string workload.lua
---@field task string tasks.lua
---@field metric string
---@field workers integer
---@field expect? string "hits": fn never runs; "misses": it always runs
---@field source? string which layer of the cache answers: checked before measuring
---@field fill? integer keys stored beforehand (all)
---@field redis? boolean
---@field redis_config? string lines for redis.conf
---@field module? boolean nginx loads ngx_gorge_module
---@field fresh? boolean a new nginx for every run
---@field whole? boolean as many keys in a quick run too
---@field sides gorge.bench.Side[]
---@field lines gorge.bench.Line[]

local GORGE = { name = "gorge", subject = "gorge" }
local GORGE_ALONE = { name = "gorge, 1 worker", subject = "gorge", workers = 1 }
local GORGE_MANY = { name = "fetch_many of 100", subject = "gorge_many" }
local GORGE_GET = { name = "cache:get", subject = "gorge_get" }
local LRUCACHE = { name = "lrucache", subject = "lrucache" }
local SHARED = { name = "ngx.shared", subject = "shared" }
local SHARED_JSON = { name = "ngx.shared+cjson", subject = "shared_json" }
local MLCACHE = { name = "mlcache", subject = "mlcache", module = "MLCACHE" }
local MLCACHE_SHM = { name = "mlcache", subject = "mlcache_shm", module = "MLCACHE" }
local RESTY_REDIS = { name = "lua-resty-redis", subject = "resty_redis", module = "LUA_RESTY_REDIS" }

local HOT, ZIPF, MILLION = 1, 10000, 1000000
local MB64, MB256 = "64m", "256m"

-- What a Go library with the same interface needed where the reference figures were read.
local function go(figure)
  return { name = "a Go library", figure = figure }
end

local rows = {}

local function add(row)
  row.workers = row.workers or 1
  row.metric = row.metric or "time"
  row.lines = row.lines or { {} }
  rows[#rows + 1] = row
end

-- Hits in L0 ---------------------------------------------------------------------------------------------------------

local function l0(id, name, draw, keys, value, lines)
  add {
    id = id, name = "fetch, L0: " .. name, cache = { l1_size = MB64 }, draw = draw, keys = keys, value = value,
    task = "fetch", expect = "hits", source = "l0", sides = { GORGE, LRUCACHE, MLCACHE }, lines = lines,
  }
end

l0("l0-hot", "one hot key", "hot", HOT, "100", {
  { limit = 1.1 },
  { against = "mlcache", reference = { name = "mlcache", figure = 5.7e-9 } },
  { against = false, limit = 1 / 10, reference = go(238e-9), fixed = true },
})
l0("l0-zipf", "zipf, 10k keys", "zipf", ZIPF, "100", {
  { limit = 1.0 },
  { against = "mlcache", reference = { name = "mlcache", figure = 18.9e-9 } },
})
l0("l0-table", "zipf, 10k small tables", "zipf", ZIPF, "table")

-- Hits in L1: l1_objects = 0 -----------------------------------------------------------------------------------------

local function l1(id, name, row)
  row.id, row.name = id, "fetch, L1: " .. name
  row.cache = { l1_size = row.size or MB64, l1_objects = 0 }
  row.task, row.expect, row.source = "fetch", "hits", "l1"
  row.sides = row.sides or { GORGE, SHARED }
  add(row)
end

l1("l1-hot", "one hot key, 100 B", {
  draw = "hot", keys = HOT, value = "100",
  lines = { { limit = 0.4 }, { against = false, limit = 1 / 3, reference = go(238e-9), fixed = true } },
})
l1("l1-zipf", "zipf, 10k keys, 100 B", { draw = "zipf", keys = ZIPF, value = "100", lines = { { limit = 0.6 } } })
l1("l1-1m", "1 M random keys, 100 B", { draw = "random", keys = MILLION, value = "100", size = MB256 })
l1("l1-zipf-1k", "zipf, 10k keys, 1 KB", { draw = "zipf", keys = ZIPF, value = "1k" })
l1("l1-zipf-10k", "zipf, 10k keys, 10 KB", { draw = "zipf", keys = ZIPF, value = "10k", size = MB256 })
l1("l1-table", "small table", {
  draw = "cycle", keys = 100, value = "table", sides = { GORGE, SHARED_JSON, MLCACHE_SHM },
  lines = {
    { limit = 350e-9, absolute = true },
    { against = "mlcache", reference = { name = "mlcache", figure = 1188e-9 } },
  },
})

local BOTH = { GORGE, SHARED, GORGE_ALONE }

l1("l1-hot-2w", "one hot key, 100 B, sum", {
  draw = "hot", keys = HOT, value = "100", workers = 2, metric = "rate", sides = BOTH,
  lines = { { limit = 8 }, { against = "gorge, 1 worker", limit = 1.7 } },
})
l1("l1-zipf-2w", "zipf, 10k keys, 100 B, sum", {
  draw = "zipf", keys = ZIPF, value = "100", workers = 2, metric = "rate", sides = BOTH,
  lines = { {}, { against = "gorge, 1 worker" } },
})
l1("l1-1m-2w", "1 M random keys, 100 B, sum", {
  draw = "random", keys = MILLION, value = "100", size = MB256, workers = 2, metric = "rate", sides = BOTH,
  lines = { {}, { against = "gorge, 1 worker" } },
})

-- Reads and writes ---------------------------------------------------------------------------------------------------

local function mix(id, name, objects, workers, metric, lines)
  add {
    id = id, name = name, cache = { l1_size = MB64, l1_objects = objects }, draw = "zipf", keys = ZIPF, value = "100",
    task = "mix", workers = workers, metric = metric, sides = { GORGE, SHARED }, lines = lines,
  }
end

local MIXED = {
  { limit = 6 },
  { name = "the same, calls that ran fn", metric = "missed" },
}
mix("mix", "95 % fetch + 5 % set, zipf, L1", 0, 1, "time")
mix("mix-2w", "95 % fetch + 5 % set, zipf, L1, sum", 0, 2, "rate", MIXED)
mix("mix-l0-2w", "95 % fetch + 5 % set, zipf, L0 and L1, sum", nil, 2, "rate", MIXED)

local function miss(id, name, objects, peer)
  add {
    id = id, name = name, cache = { l1_size = "16m", l1_objects = objects }, draw = "fresh", keys = 200000, value = "100",
    task = "fetch", expect = "misses", sides = { GORGE, peer },
  }
end

miss("miss-shared", "fetch of a cold key, full L1, no L0", 0, SHARED)
miss("miss-lrucache", "fetch of a cold key, full L1, L0", nil, LRUCACHE)

local function set(id, name, row)
  row.id, row.name = id, "set, " .. name
  row.cache = { l1_size = row.size or MB64, l1_objects = 0 }
  row.task, row.sides = "set", { GORGE, SHARED }
  add(row)
end

set("set-full", "100 B into a full L1", { draw = "cycle", keys = MILLION, value = "100", lines = { { limit = 0.5 } } })
set("set-full-1k", "1 KB into a full L1", { draw = "cycle", keys = 200000, value = "1k" })
set("set-full-10k", "10 KB into a full L1", { draw = "cycle", keys = 20000, value = "10k" })
set("set-full-2w", "100 B into a full L1, sum", {
  draw = "cycle", keys = MILLION, value = "100", workers = 2, metric = "rate",
})
set("set-over", "100 B over existing, zipf, 10k keys", { draw = "zipf", keys = ZIPF, value = "100" })

-- Memory -------------------------------------------------------------------------------------------------------------

add {
  id = "memory", name = "memory per entry, 20 B + 100 B", cache = { l1_size = MB64, l1_objects = 0 }, draw = "cycle", keys = 600000,
  value = "100", task = "memory", metric = "bytes", fill = 0, fresh = true, whole = true, sides = { GORGE, SHARED },
  lines = { { limit = 165, absolute = true } },
}

-- Storm and tags -----------------------------------------------------------------------------------------------------

add {
  id = "storm", name = "storm: 1,000 fetches of a cold key", cache = { l1_size = MB64 }, draw = "fresh", keys = 1000, value = "100", fill = 0,
  task = "storm", workers = 2, metric = "answered", sides = { GORGE },
  lines = {
    { name = "storm: last answer, fn of 50 ms", against = false, limit = 0.060, absolute = true },
    { name = "storm: runs of fn", metric = "loads", against = false, limit = 1, absolute = true },
  },
}

local function tag(id, name, row)
  row.id, row.name = id, "invalidate a tag of 1 M keys, " .. name
  row.task, row.draw, row.keys, row.value, row.fill = "tag", "cycle", MILLION, "100", 0
  row.sides = { { name = "gorge", subject = "gorge" }, { name = "tag of 1,000 keys", subject = "gorge", keys = 1000 } }
  row.lines = { { limit = 0.001, absolute = true } }
  add(row)
end

tag("tag-l1", "L1", { cache = { l1_size = "512m" } })
tag("tag-redis", "Redis", { cache = { l1_size = MB64 }, redis = true })

-- Redis --------------------------------------------------------------------------------------------------------------

-- Every key is asked for in L2: L0 is off and what L1 keeps of it is over before its turn comes again.
local function l2(id, row)
  row.id, row.redis = id, true
  row.cache = { l1_size = "16m", l1_objects = 0, l1_ttl = 0.001 }
  row.draw, row.keys, row.value = "cycle", 20000, "100"
  row.sides = row.sides or { GORGE, RESTY_REDIS, GORGE_GET }
  add(row)
end

local function resty_redis(figure)
  return { name = "lua-resty-redis", figure = figure }
end

l2("l2-flight", {
  name = "L2 hits, 2 workers x 50 in flight", task = "in_flight", workers = 2, metric = "rate",
  lines = {
    { against = "lua-resty-redis", limit = 4.5, reference = resty_redis(177e3) },
    { against = "cache:get" },
    { name = "the same, CPU per GET", metric = "cpu", against = "lua-resty-redis", limit = 0.25, reference = resty_redis(7.1e-6) },
    { name = "the same, CPU per GET", metric = "cpu", against = "cache:get" },
  },
})
l2("l2-serial", {
  name = "L2 hits, one after another", task = "one_by_one",
  redis_config = "server_cpulist 0", -- where the worker is: only one of them ever runs, and waking another core would be what is measured
  lines = {
    { against = "lua-resty-redis", limit = 1.0, reference = resty_redis(21e-6) },
    { against = "cache:get" },
    { against = false, limit = 1, reference = go(25e-6), fixed = true },
  },
})
-- The same with nginx moving the bytes itself.
l2("l2-flight-mod", {
  name = "module: L2 hits, 2 workers x 50", task = "in_flight", workers = 2, metric = "rate", module = true,
  lines = {
    { against = "lua-resty-redis", limit = 7, reference = resty_redis(177e3) },
    { against = "cache:get" },
    { name = "the same, CPU per GET", metric = "cpu", against = "lua-resty-redis", limit = 0.25, reference = resty_redis(7.1e-6) },
    { name = "the same, CPU per GET", metric = "cpu", against = "cache:get" },
  },
})
l2("l2-serial-mod", {
  name = "module: L2 hits, one after another", task = "one_by_one", redis_config = "server_cpulist 0", module = true,
  lines = {
    { against = "lua-resty-redis", limit = 0.9, reference = resty_redis(21e-6) },
    { against = "cache:get" },
  },
})
l2("l2-many", {
  name = "L2 hit, 100 keys in one call", task = "one_by_one", sides = { GORGE_MANY, { name = "100 fetches", subject = "gorge" } },
  redis_config = "server_cpulist 0",
})
l2("l2-http", {
  name = "L2 hit in a handler, wrk -c50", task = "http", workers = 2, metric = "rate", sides = { GORGE, RESTY_REDIS },
  lines = { { against = "lua-resty-redis", limit = 1.6, reference = resty_redis(90e3) } },
})
l2("l2-http-mod", {
  name = "module: L2 hit in a handler, wrk -c50", task = "http", workers = 2, metric = "rate", sides = { GORGE, RESTY_REDIS }, module = true,
  lines = { { against = "lua-resty-redis", limit = 1.6, reference = resty_redis(90e3) } },
})

_M.list = rows
_M.by_id = {}
for _, row in ipairs(rows) do
  assert(not _M.by_id[row.id], row.id)
  _M.by_id[row.id] = row
end

return _M
