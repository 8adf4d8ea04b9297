-- SPDX-License-Identifier: MIT
-- Typed caches: in plain programs, on shared memory and through Redis. Two zones in one process are two nodes.
local helper = require "spec.helper"
local ffi = require "ffi"
local gorge = require "gorge"

ffi.cdef [[
  struct typed_point { double x, y; char name[8]; };
  struct typed_point3 { double x, y, z; };
]]
local Point = ffi.typeof "struct typed_point"

local USER = { id = "number", roles = { "string" } }

local count = 0
local function new(options)
  count = count + 1
  options = options or {}
  options.namespace = options.namespace or "typed-" .. count
  options.zone = options.zone or options.namespace
  options.l1_size = "4m"
  options.log = options.log or {}
  local log = options.log
  options.log = nil
  options.logger = options.logger or function(level, message)
    log[#log + 1] = level .. " " .. message
  end
  return assert(gorge.new(options)), log
end

local function returns(value)
  return function() return value end
end

local function never() error "not to be run" end

for _, serializer in ipairs { "auto", "json", "msgpack", "own" } do
  local chosen = serializer
  if serializer == "own" then
    local cjson = require "cjson"
    chosen = { name = "own", encode = function(value) return "own" .. cjson.encode(value) end, decode = function(bytes) return cjson.decode(bytes:sub(4)) end }
  end

  describe("a schema, with serializer " .. serializer .. ",", function()
    it("lets pass what fits, from every layer", function()
      local cache = new { namespace = "fits-" .. serializer, schema = USER, serializer = chosen }
      local direct = new { namespace = "fits-" .. serializer, schema = USER, serializer = chosen, l1_objects = 0 }
      local user = { id = 1, roles = { "a", "b" } }
      assert.same({ user, nil, "fn" }, { cache:fetch("k", 60, returns(user)) })
      assert.same({ user, nil, "l0" }, { cache:fetch("k", 60, never) })
      assert.same({ user, nil, "l1" }, { direct:fetch("k", 60, never) })
      assert.same({ nil, nil, "fn" }, { cache:fetch("none", 60, returns(nil)) })
      assert.same({ nil, nil, "l0" }, { cache:fetch("none", 60, never) })
      assert.is_true(cache:set("k", { id = 2, roles = {} }, 60))
      assert.same({ id = 2, roles = {} }, (direct:get "k"))
      assert.same({ id = 3, roles = {} }, (direct:update("k", 60, function(old) return { id = old.id + 1, roles = old.roles } end)))
      assert.equal(0, cache:stats().decode_errors)
    end)

    it("refuses everything else by the path of the field, and stores nothing", function()
      local cache = new { schema = USER, serializer = chosen }
      local bad = { id = 1, roles = { "a", 5 } }
      local problem = 'gorge: key "k": roles[2]: expected string, got number'
      assert.same({ nil, problem, nil }, { cache:fetch("k", 60, returns(bad)) })
      assert.same({ nil, problem, nil }, { cache:fetch("k", 60, function() return bad, nil, { no_store = true } end) })
      assert.same({ nil, problem }, { cache:set("k", bad, 60) })
      assert.same({ nil, problem }, { cache:update("k", 60, returns(bad)) })
      assert.same({ nil, 'gorge: key "k": value: expected table, got string' }, { cache:fetch("k", 60, returns "text") })
      assert.is_nil(cache:peek "k")
      assert.equal(0, cache:stats().fills_running)
      local degraded = new { schema = USER, serializer = chosen, cache_read_disabled = true }
      assert.same({ nil, problem }, { degraded:fetch("k", 60, returns(bad)) })
    end)

    it("tells fetch_many of each key that does not fit", function()
      local good, bad = { id = 1, roles = { "a" } }, { id = 1, roles = { "a", 5 } }
      local problem = 'gorge: key "bad": roles[2]: expected string, got number'
      for _, degraded in ipairs { false, true } do
        local cache = new { schema = USER, serializer = chosen, cache_read_disabled = degraded }
        for _, overrides in ipairs { false, { bad = { no_store = true } } } do
          local values, errs = cache:fetch_many({ "good", "bad" }, 60, function() return { good = good, bad = bad }, nil, overrides or nil end)
          assert.same({ { good = good }, { bad = problem } }, { values, errs })
        end
        assert.is_nil(cache:peek "bad")
      end
    end)

    it("holds what another schema has stored on this host for a miss, and loads it anew, once", function()
      local namespace = "changed-" .. serializer
      local older = new { namespace = namespace, schema = { id = "number" }, serializer = chosen }
      local newer, log = new { namespace = namespace, schema = USER, serializer = chosen }
      older:fetch("k", 60, returns { id = 1 })
      assert.is_nil((newer:get "k"))
      older:fetch("k", 60, returns { id = 1 })
      assert.same({ { id = 2, roles = {} }, nil, "fn" }, { newer:fetch("k", 60, returns { id = 2, roles = {} }) })
      assert.same({ { id = 2, roles = {} }, nil, "l0" }, { newer:fetch("k", 60, never) })
      assert.equal(2, newer:stats().decode_errors)
      local told = 0
      for _, line in ipairs(log) do
        told = told + (line:find("warn gorge: a value in L1 cannot be decoded, treated as a miss: ", 1, true) and 1 or 0)
      end
      assert.equal(1, told) -- in a minute
    end)
  end)
end

describe("a C struct as schema", function()
  it("stores and hands out that struct, from every layer", function()
    local cache, direct = new { namespace = "struct", schema = Point }, new { namespace = "struct", schema = Point, l1_objects = 0 }
    assert.equal("fn", select(3, cache:fetch("k", 60, returns(Point(1, 2, "p")))))
    local point, err, source = cache:fetch("k", 60, never)
    assert.same({ 1, 2, "p", nil, "l0" }, { point.x, point.y, ffi.string(point.name), err, source })
    point, err, source = direct:fetch("k", 60, never)
    assert.is_true(ffi.istype(Point, point))
    assert.same({ 1, 2, "p", nil, "l1" }, { point.x, point.y, ffi.string(point.name), err, source })
    assert.equal(8 + ffi.sizeof(Point), cache:peek("k").size)
    assert.same({ nil, nil, "fn" }, { cache:fetch("none", 60, returns(nil)) })
    assert.same({ nil, nil, "l0" }, { cache:fetch("none", 60, never, nil, { clone = true }) })
    assert.is_true(cache:set("k", Point(3, 4), 60))
    assert.equal(3, direct:get("k").x)
    assert.equal(4, direct:update("k", 60, function(old) old.x = old.x + 1 return old end).x)
    assert.equal(4, cache:get("k").x)
  end)

  it("hands out a private copy when asked to", function()
    local cache = new { schema = Point }
    cache:fetch("k", 60, returns(Point(1, 2)))
    local shared, copy = cache:get "k", cache:get("k", { clone = true })
    copy.x = 100
    assert.equal(1, shared.x)
    assert.equal(1, cache:get("k").x)
    local first = cache:fetch("other", 60, returns(Point(1, 2)), nil, { clone = true })
    first.x = 100
    assert.equal(1, cache:get("other").x)
    local values = cache:fetch_many({ "k" }, 60, never, nil, { clone = true })
    values.k.x = 100
    assert.equal(1, cache:get("k").x)
  end)

  it("refuses anything else", function()
    local cache = new { schema = Point }
    local list = ffi.new "struct typed_point[2]"
    for got, bad in pairs {
      table = { x = 1, y = 2 }, string = "text", boolean = false, ["struct typed_point3"] = ffi.new "struct typed_point3",
      ["struct typed_point &"] = list[0], ["struct typed_point *"] = ffi.new "struct typed_point *", ["struct typed_point [2]"] = list,
    } do
      local problem = 'gorge: key "k": value: expected struct typed_point, got ' .. got
      assert.same({ nil, problem }, { cache:fetch("k", 60, returns(bad)) })
      assert.same({ nil, problem }, { cache:fetch("k", 60, returns(bad), nil, { clone = true }) })
      assert.same({ nil, problem }, { cache:fetch("k", 60, function() return bad, nil, { no_store = true } end) })
      assert.same({ nil, problem }, { cache:set("k", bad, 60) })
    end
    assert.is_nil(cache:peek "k")
  end)

  it("takes bytes of another layout for a miss", function()
    local older, newer = new { namespace = "layouts", schema = Point }, new { namespace = "layouts", schema = ffi.typeof "struct typed_point3" }
    older:fetch("k", 60, returns(Point(1, 2)))
    local point, err, source = newer:fetch("k", 60, returns(ffi.new("struct typed_point3", 1, 2, 3)))
    assert.same({ 3, nil, "fn" }, { point.z, err, source })
    assert.equal(1, newer:stats().decode_errors)
    assert.is_nil((older:get "k"))
    local untyped = new { namespace = "layouts" }
    newer:set("k", ffi.new("struct typed_point3", 1, 2, 3), 60)
    assert.same({ "anew", nil, "fn" }, { untyped:fetch("k", 60, returns "anew") })
  end)
end)

describe("a typed cache with Redis", function()
  local redis
  setup(function() redis = helper.redis() end)

  ---Two nodes; the second one with changes.
  local function nodes(options, changes)
    local namespace = "typed-redis-" .. count
    local made, logs = {}, {}
    for i, name in ipairs { "a", "b" } do
      local o = { namespace = namespace, zone = namespace .. name, redis = redis.url }
      for k, v in pairs(options) do
        o[k] = v
      end
      for k, v in pairs(i == 2 and changes or {}) do
        o[k] = v
      end
      made[i], logs[i] = new(o)
      made[i]:get "start"
    end
    return made[1], made[2], logs[2]
  end

  for _, serializer in ipairs { "auto", "json", "msgpack" } do
    it("reads what another node has stored, by its schema: serializer " .. serializer, function()
      local a, b = nodes { schema = USER, serializer = serializer }
      assert.equal("fn", select(3, a:fetch("k", 60, returns { id = 1, roles = { "a" } })))
      assert.same({ { id = 1, roles = { "a" } }, nil, "l2" }, { b:fetch("k", 60, never) })
      assert.same({ { id = 1, roles = { "a" } }, nil, "l0" }, { b:fetch("k", 60, never) })
    end)
  end

  it("takes what does not fit for a miss, counts it, tells of it once, and loads anew", function()
    local a, b, log = nodes({ schema = { id = "number", roles = { "any" } } }, { schema = USER })
    for i = 1, 3 do
      assert.is_true(a:set("k" .. i, { id = i, roles = { "a", 5 } }, 60))
      assert.same({ { id = i, roles = {} }, nil, "fn" }, { b:fetch("k" .. i, 60, returns { id = i, roles = {} }) })
      assert.same({ { id = i, roles = {} }, nil, "l0" }, { b:fetch("k" .. i, 60, never) })
    end
    a:set("got", { id = 1, roles = { 5 } }, 60)
    assert.same({ n = 1 }, { n = select("#", b:get "got"), b:get "got" })
    assert.is_true(b:stats().decode_errors >= 4)
    local lines = {}
    for _, line in ipairs(log) do
      lines[line] = (lines[line] or 0) + 1
    end
    assert.equal(1, lines["warn gorge: a value in Redis cannot be decoded, treated as a miss: roles[2]: expected string, got number"])
  end)

  it("leaves out fields that only a newer schema knows", function()
    local a, b = nodes({ schema = { id = "number", roles = { "string" }, phone = "string?" } }, { schema = USER })
    a:set("k", { id = 1, roles = {}, phone = "2" }, 60)
    assert.same({ { id = 1, roles = {} }, nil, "l2" }, { b:fetch("k", 60, never) })
    b:set("k", { id = 2, roles = {} }, 60)
    helper.wait_until(function() return a:get("k").id == 2 end, { timeout = 20 })
  end)

  it("moves a C struct by its bytes, and takes another layout for a miss", function()
    local a, b = nodes { schema = Point }
    a:fetch("k", 60, returns(Point(1, 2, "p")))
    local point, err, source = b:fetch("k", 60, never)
    assert.same({ 1, 2, "p", nil, "l2" }, { point.x, point.y, ffi.string(point.name), err, source })
    assert.same({ nil, nil, "fn" }, { a:fetch("none", 60, returns(nil)) })
    assert.same({ nil, nil, "l2" }, { b:fetch("none", 60, never) })
    local c, d, log = nodes({ schema = Point }, { schema = ffi.typeof "struct typed_point3" })
    c:fetch("k", 60, returns(Point(1, 2, "p")))
    point, err, source = d:fetch("k", 60, returns(ffi.new("struct typed_point3", 7, 8, 9)))
    assert.same({ 9, nil, "fn" }, { point.z, err, source })
    assert.matches("a value of another layout than struct typed_point3 has here", table.concat(log, "\n"))
  end)
end)
