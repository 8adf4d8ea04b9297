-- SPDX-License-Identifier: MIT
-- The history checker on histories made by hand: what may have happened passes, what may not is named by its rule.
require "spec.helper"
local checker = require "spec.history.checker"
local record = require "spec.history.record"
local report = require "spec.history.report"
local timeline = require "spec.history.timeline"

local K, T = 1, 2 -- a key, and its tag

--- An operation: kind, start, finish, and what else is to be known. `on` is its host.
local function op(kind, start, finish, fields)
  fields = fields or {}
  return {
    kind = record["KIND_" .. kind:upper()], start = start, finish = finish or 0, clock = fields.clock or start, value = fields.value or 0,
    before = fields.before or 0, key = fields.key or (kind == "tags" and T or K), pid = fields.pid or 100 * (fields.on or 1),
    result = record["RESULT_" .. (fields.result or "ok"):upper()], source = record["SOURCE_" .. (fields.from or "none"):upper()],
    host = fields.on or 1,
  }
end

local function write(value, start, finish)
  return op("write", start, finish or start, { value = value })
end

local function read(value, start, from, fields)
  fields = fields or {}
  fields.value, fields.from = value, from or "l1"
  return op("fetch", start, start + 0.001, fields)
end

local function history(ops, fields)
  local h = {
    ops = ops, tag_of = { [K] = T }, ttl_of = {}, bound = 1, disconnected = 0, limits = {}, killed = {}, ends = 100, lease = 1,
    faults = {}, losses = {}, settled = {}, resets = {},
  }
  for name, value in pairs(fields or {}) do
    h[name] = value
  end
  return h
end

--- The rules that a history breaks, in order of time.
local function rules(ops, fields)
  local found = {}
  for i, violation in ipairs(checker.check(history(ops, fields))) do
    found[i] = violation.rule
  end
  return found
end

local NIL = 7 * 4096 -- an id that means "there is no such thing"

describe("the history checker", function()
  describe("on one host", function()
    for _, how in ipairs { "delete", "tags", "clear" } do
      it("finds a value read after a " .. how .. " that began when it was gone", function()
        local ops = { write(10, 1), write(11, 2), op(how, 3, 4), read(10, 5) }
        assert.same({ "I3" }, rules(ops))
        ops[4] = read(11, 5)
        assert.same({}, rules(ops))
        ops[4] = read(10, 3.5) -- begun before it had returned
        assert.same({}, rules(ops))
        ops[4] = read(10, 5, "l1", { on = 2 }) -- another host, which may be late
        assert.same({}, rules(ops))
      end)
    end

    it("takes a failed invalidation as seriously, and one without an end not at all", function()
      assert.same({ "I3" }, rules { write(10, 1), write(11, 2), op("delete", 3, 4, { result = "failed" }), read(10, 5) })
      assert.same({}, rules { write(10, 1), write(11, 2), op("delete", 3), read(10, 5) })
    end)

    it("lets a value be read whose successor was written at the same time as the invalidation began, or later", function()
      assert.same({}, rules { write(10, 1), write(11, 2, 3.5), op("delete", 3, 4), read(10, 5) })
      assert.same({}, rules { write(10, 1), op("delete", 3, 4), write(11, 4.5), read(10, 5) })
    end)

    it("counts a set from its end", function()
      local set = op("set", 1, 6, { value = 10 })
      assert.same({}, rules { set, op("delete", 2, 3), read(10, 7) })
      assert.same({ "I3" }, rules { set, op("delete", 6.5, 6.7), read(10, 7) })
      assert.same({ "I3" }, rules { op("set", 1, 2, { value = 10 }), op("set", 3, 4, { value = 11 }), read(10, 5) })
      assert.same({}, rules { op("set", 1, 2, { value = 10, result = "failed" }), op("delete", 3, 4), read(10, 5) }) -- it may still arrive
    end)

    it("knows values that say that there is nothing", function()
      local nothing = op("fetch", 5, 5.1, { result = "nil", from = "l1" })
      assert.same({}, rules { write(NIL, 1), op("delete", 3, 4), nothing })
      assert.same({ "I3" }, rules { write(NIL, 1), write(11, 2), op("delete", 3, 4), nothing })
      assert.same({}, rules { op("load", 0, 0.1), op("delete", 3, 4), nothing }) -- nothing was ever written
      assert.same({}, rules { write(11, 2), op("delete", 3, 4), op("get", 5, 5.1, { result = "miss" }) })
    end)

    it("finds a value from nowhere", function()
      assert.same({ "value" }, rules { write(10, 1), read(12, 2) })
    end)

    it("finds a read that goes back, while Redis is there", function()
      local ops = { write(10, 1), write(11, 2), read(11, 3), read(10, 4) }
      assert.same({ "I4" }, rules(ops))
      assert.same({}, rules(ops, { faults = { { from = 3.5, to = 3.6, contact = true, what = "cut" } } }))
      assert.same({ "I4" }, rules(ops, { faults = { { from = 3.5, to = 3.6, contact = true, host = 2, what = "cut" } } }))
      ops[4] = read(10, 3.0005) -- at the same time
      assert.same({}, rules(ops))
      ops[4] = read(10, 4, "l1", { on = 2 })
      assert.same({}, rules(ops))
    end)

    it("does not compare what a loader returned and nothing has stored with what was stored meanwhile", function()
      local alone = op("fetch", 1.5, 3, { value = 11, from = "fn", before = 1 })
      local ops = { write(10, 1), op("set", 1, 2, { value = 10 }), write(11, 2.5), alone, read(10, 4) }
      assert.same({}, rules(ops))
      ops[6] = op("fetch", 2, 3.0005, { value = 11, from = "l0" }) -- shares it
      assert.same({}, rules(ops))
      ops[6] = op("fetch", 3.1, 3.2, { value = 11, from = "l0" }) -- is stored, then
      assert.same({ "I4" }, rules(ops))
      ops[6] = nil
      alone.before = 0
      assert.same({ "I4" }, rules(ops))
      alone.before, alone.start = 1, 2.1 -- what was stored before is gone
      assert.same({ "I4" }, rules(ops))
    end)

    it("finds a value that outlived its ttl", function()
      local fill = read(10, 1, "fn")
      assert.same({ "expiry" }, rules({ write(10, 0), fill, read(10, 3.1) }, { ttl_of = { [K] = 2 } }))
      assert.same({}, rules({ write(10, 0), fill, read(10, 2.9) }, { ttl_of = { [K] = 2 } }))
      assert.same({}, rules({ write(10, 0), fill, read(10, 2.5, "fn"), read(10, 3.1) }, { ttl_of = { [K] = 2 } }))
    end)
  end)

  describe("on other hosts", function()
    local ops
    before_each(function()
      ops = { write(10, 1), write(11, 2), op("delete", 3, 4) }
    end)

    it("finds what is older than the bound", function()
      ops[4] = read(10, 4.9, "l1", { on = 2 })
      assert.same({}, rules(ops))
      ops[4] = read(10, 5.1, "l1", { on = 2 })
      assert.same({ "I2" }, rules(ops))
      ops[4] = read(10, 5.1, "l1", { on = 2, clock = 4.9 }) -- the clock that it went by
      assert.same({}, rules(ops))
      ops[3] = op("delete", 3, 4, { result = "failed" }) -- Redis need not know
      ops[4] = read(10, 9, "l1", { on = 2 })
      assert.same({}, rules(ops))
    end)

    it("finds what Redis still returned after it had acknowledged, at once", function()
      ops[4] = read(10, 4.1, "l2", { on = 2 })
      assert.same({ "I1" }, rules(ops))
      ops[3] = op("clear", 3, 4)
      assert.same({}, rules(ops)) -- names of before
      ops[4] = read(10, 5.1, "l2", { on = 2 })
      assert.same({ "I2" }, rules(ops))
    end)

    it("allows for the time that a fill took, where values are kept without contact", function()
      ops[4] = op("fetch", 2, 6, { value = 10, from = "fn", on = 2 })
      ops[5] = read(10, 8.5, "l1", { on = 2 })
      assert.same({ "I2" }, rules(ops))
      assert.same({}, rules(ops, { disconnected = 1 }))
      ops[5] = read(10, 9.5, "l1", { on = 2 })
      assert.same({ "I2" }, rules(ops, { disconnected = 1 }))
    end)

    it("allows for the time that a fill or a set of nothing took, too", function()
      local function nothing(start, finish, from)
        return op("fetch", start, finish, { result = "nil", from = from, on = 2 })
      end
      ops[1] = write(NIL, 1)
      for _, fill in ipairs { nothing(2, 6, "fn"), op("set", 1.9, 2.9, { value = NIL, on = 2 }) } do
        local slack = fill.finish - fill.start
        ops[4], ops[5] = fill, nothing(4.9 + slack, 4.95 + slack, "l1")
        assert.same({}, rules(ops, { disconnected = 1 }))
        ops[5] = nothing(5.1 + slack, 5.15 + slack, "l1")
        assert.same({ "I2" }, rules(ops, { disconnected = 1 }))
      end
      ops[4], ops[5] = nothing(2, 6, "fn"), nothing(8.5, 8.6, "l1")
      assert.same({ "I2" }, rules(ops))
    end)

    it("counts what failed as well once everybody has been told", function()
      ops[3] = op("delete", 3, 4, { result = "failed" })
      ops[4] = read(10, 9, "l1", { on = 2 })
      assert.same({ "I6" }, rules(ops, { settled = { { from = 5, to = 6 } } }))
      assert.same({}, rules(ops, { settled = { { from = 5, to = 8.5 } } }))
      assert.same({}, rules(ops, { settled = { { from = 3.5, to = 6 } } }))
    end)

    it("lets a failover lose what it is declared to lose", function()
      ops[4] = read(10, 9, "l1", { on = 2 })
      assert.same({ "I2" }, rules(ops))
      assert.same({}, rules(ops, { losses = { { from = 3.5, to = 3.7 } } }))
      assert.same({ "I2" }, rules(ops, { losses = { { from = 5, to = 6 } } }))
    end)
  end)

  it("finds updates that replaced the same value", function()
    local first = op("update", 1, 2, { value = 11, before = 10 })
    local second = op("update", 3, 4, { value = 12, before = 10, on = 2 })
    local origin = op("set", 0, 0.5, { value = 10 })
    assert.same({ "update" }, rules { origin, first, second })
    assert.same({}, rules({ origin, first, second }, { resets = { 2.5 } }))
    second = op("update", 3, 4, { value = 12, before = 11, on = 2 })
    assert.same({}, rules { origin, first, second })
    second = op("update", 3, 4, { value = 12, before = 10, on = 2, result = "failed" })
    assert.same({}, rules { origin, first, second })
  end)

  describe("of loaders", function()
    local first, second
    before_each(function()
      first = op("load", 2, 4, { value = 10, before = 1.9 })
      second = op("load", 3, 5, { value = 10, before = 2.9, on = 2 })
    end)

    it("finds two on different hosts that overlap", function()
      assert.same({ "I7" }, rules { write(10, 1), first, second })
      second.host = 1
      assert.same({}, rules { write(10, 1), first, second })
      second = op("load", 4.1, 5, { value = 10, before = 2.9, on = 2 })
      assert.same({}, rules { write(10, 1), first, second })
    end)

    it("allows it after an invalidation, a death, a fault or a stall", function()
      assert.same({}, rules { write(10, 1), first, second, op("delete", 2.5, 2.6) })
      assert.same({}, rules { write(10, 1), first, second, op("tags", 1.5, 2.6) })
      assert.same({ "I7" }, rules { write(10, 1), first, second, op("delete", 3.5, 3.6) })
      assert.same({}, rules({ write(10, 1), first, second }, { faults = { { from = 2.5, to = 2.6, contact = true, what = "cut" } } }))
      assert.same({}, rules { write(10, 1), first, second, op("stall", 2, 2.9, { pid = 100 }) })
      assert.same({}, rules { write(10, 1), first, second, op("trouble", 2, 2.9, { on = 2 }) })
      first.finish = 0 -- killed
      assert.same({}, rules { write(10, 1), first, second })
    end)

    it("goes by the last loader of a host", function()
      local next_one = op("load", 2.5, 2.9, { value = 10, before = 2.4 })
      assert.same({}, rules { write(10, 1), first, second, next_one })
      next_one.finish = 3.5
      assert.same({ "I7" }, rules { write(10, 1), first, second, next_one })
      next_one = op("load", 1.8, 1.9, { value = 10, before = 1.7 })
      assert.same({ "I7" }, rules { write(10, 1), first, second, next_one })
    end)

    it("allows it after a failover, which may lose a lease, until the nodes have settled", function()
      local ops = { write(10, 1), first, second }
      local failover = { from = 2.2, to = 2.6, contact = true, what = "failover" }
      assert.same({}, rules(ops, { faults = { failover }, losses = { { from = 2.2, to = 2.4 } } }))
      failover.from, failover.to = 0.5, 1.8 -- before both
      assert.same({ "I7" }, rules(ops, { faults = { failover }, losses = { { from = 0.5, to = 0.7 } } }))
      failover.to = 1.95 -- the first lease may be from before
      assert.same({}, rules(ops, { faults = { failover }, losses = { { from = 0.5, to = 0.7 } } }))
      failover.from, failover.to = 3.5, 3.6 -- both leases were given by then
      assert.same({ "I7" }, rules(ops, { faults = { failover }, losses = { { from = 3.5, to = 3.6 } } }))
    end)

    it("does not take the end of a worker for a reason", function()
      local ops = { write(10, 1), first, second }
      local reload = { from = 1.8, to = 3.4, host = 1, what = "reload of host 1" }
      assert.same({ "I7" }, rules(ops, { faults = { reload } }))
      reload.host = 2
      assert.same({ "I7" }, rules(ops, { faults = { reload } }))
      ops[4] = op("trouble", 1.9, 3.4, { on = 2 }) -- one that had trouble with Redis did without
      assert.same({}, rules(ops, { faults = { reload } }))
    end)
  end)

  it("finds operations that take too long, or do not end", function()
    local limits = { [record.KIND_GET] = 2 }
    assert.same({ "I8" }, rules({ op("get", 1, 3.5, { result = "miss" }) }, { limits = limits }))
    assert.same({}, rules({ op("get", 1, 3.5, { result = "miss" }), op("stall", 2, 2.7, { pid = 100 }) }, { limits = limits }))
    assert.same({}, rules({ op("get", 1, 3.5, { result = "miss" }) }, { limits = limits, faults = { { from = 1, to = 3, pid = 100, what = "SIGSTOP" } } }))
    assert.same({ "I8" }, rules({ op("get", 1, nil, { result = "not_ended" }) }, { limits = limits }))
    assert.same({}, rules({ op("get", 1, nil, { result = "not_ended" }) }, { limits = limits, killed = { [100] = true } }))
    assert.same({}, rules({ op("get", 99, nil, { result = "not_ended" }) }, { limits = limits }))
  end)

  it("shows what a violation rests on, and nothing else", function()
    local h = history({
      write(10, 1), op("load", 1.1, 1.2, { value = 10 }), write(11, 2), read(11, 2.5, "l1", { on = 2 }), op("delete", 3, 4),
      read(11, 4.5, "l2", { on = 2 }), read(10, 5),
    }, { faults = { { from = 3.9, to = 4.2, what = "SIGSTOP of Redis" }, { from = 50, to = 51, what = "another one" } } })
    local violations = checker.check(h)
    assert.equal("I3", violations[1].rule)
    local text = report.text(violations[1], 0)
    assert.matches("^I3: an old value was read", text)
    assert.equal(7, select(2, text:gsub("\n", "\n")) + 1) -- what is wrong, two writes, load, delete, read, fault
    assert.matches("\n +1%.000000 %+0%.000000  host 1 pid 100  write key 1  value 10  ok  clock 1%.000000\n", text)
    assert.matches("fault: SIGSTOP of Redis$", text)
  end)
end)

describe("timelines", function()
  it("know what had ended by a moment, and began last", function()
    local a, b, c = { start = 1, finish = 2 }, { start = 3, finish = 6 }, { start = 2, finish = 4 }
    local frontier = timeline.frontier { a, b, c }
    assert.is_nil(frontier:before(2))
    assert.equal(a, frontier:before(2.1))
    assert.equal(c, frontier:before(6))
    assert.equal(b, frontier:before(7))
  end)

  it("know the first of the writes that certainly came later", function()
    local a, b, c = { start = 1, finish = 2 }, { start = 3, finish = 9 }, { start = 4, finish = 5 }
    local register = timeline.register { c, b, a }
    assert.equal(c, register:replaced(2))
    assert.equal(c, register:replaced(3))
    assert.is_nil(register:replaced(4))
  end)

  it("know the calm between intervals", function()
    local calm = timeline.calm { { from = 5, to = 6 }, { from = 1, to = 2 }, { from = 1.5, to = 3 }, { from = 8 } }
    assert.equal(0, calm:stretch(0, 0.9))
    assert.is_nil(calm:stretch(0, 1.1))
    assert.is_nil(calm:stretch(2.5, 2.6))
    assert.equal(1, calm:stretch(3.1, 4.9))
    assert.is_nil(calm:stretch(4, 7))
    assert.equal(2, calm:stretch(6.5, 7))
    assert.is_nil(calm:stretch(9, 10))
    assert.equal(1.5, timeline.overlap({ { from = 1, to = 2 }, { from = 2.5 } }, 0, 3))
  end)
end)
