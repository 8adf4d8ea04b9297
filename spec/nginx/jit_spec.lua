-- SPDX-License-Identifier: MIT
-- Hits and sets stay compiled: LuaJIT aborts no trace on them and leaves no call to the interpreter; a hit in L0 calls no C and makes no object.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- LuaJIT counts calls and loops in 64 cells chosen by address, so that a function may count as hot before the loop that calls it does; a side trace of
-- its trace then follows the loop round until it gives up. Here the loop is made hot first: it ends each turn with `if at_end then at_end() end`.
local HOT = [[
  local at_end
  local function compile(loop)
    at_end = function()
      at_end = nil
      jit.opt.start "hotloop=1" -- sets every cell: the loop is hot at the end of this turn
    end
    jit.opt.start "hotloop=56"
    loop(10)
    jit.opt.start "hotloop=56"
  end
  jit.off(compile, true) -- it may look hot itself
]]

-- Prepares values of every kind and a loop of hits, or of sets. In `kind` the layer or "set", then what is fetched or set.
local PREPARE = HOT .. [[
  local kind, path = ...
  local layer, what = kind:match "^(%S+) (.+)$"
  local cache = cache
  if layer == "l1" then
    without_l0 = without_l0 or assert(gorge.new { namespace = cache.options.namespace, l1_objects = 0 })
    cache = without_l0
  elseif layer == "l1,l0" then -- too small to have what is asked for next
    small_l0 = small_l0 or assert(gorge.new { namespace = cache.options.namespace, l1_objects = 10 })
    cache = small_l0
  end
  local typed = what == "a typed table" or what:match "struct"
  if typed then
    schemas = schemas or { ["a typed table"] = { list = { "number" } }, ["a struct"] = require("ffi").typeof "struct { double x, y; }" }
    typed_caches = typed_caches or {}
    typed_caches[kind] = typed_caches[kind] or assert(gorge.new { namespace = cache.options.namespace, schema = schemas[what],
      l1_objects = layer == "l1" and 0 or layer == "l1,l0" and 10 or nil })
    cache = typed_caches[kind]
  end
  local values = { ["a string"] = "text", ["a number"] = 0.5, ["a table"] = { list = { 1, 2 } }, ["false"] = false,
    ["a typed table"] = { list = { 1, 2 } } }
  if what:match "struct" then
    values[what] = schemas[what]()
  end
  local function fail() error "not to be run" end
  local keys = {}
  for i = 1, 100 do
    keys[i] = what .. " " .. i
    if not cache:peek(keys[i]) then
      assert(cache:set(keys[i], values[what], 600, i % 2 == 0 and "tag" or nil))
    end
  end
  local function hits(n)
    for i = 1, n do
      cache:fetch(keys[i % 100 + 1], 60, fail)
      if at_end then at_end() end
    end
  end
  if what == "one key" then
    function hits(n)
      for _ = 1, n do
        cache:fetch("one key 1", 60, fail)
        if at_end then at_end() end
      end
    end
  elseif what == "get" then
    function hits(n)
      for i = 1, n do
        cache:get(keys[i % 100 + 1])
        if at_end then at_end() end
      end
    end
  end
  if layer == "set" then
    local value = values[what:match "^a %w+" or what]
    local tag = what:match "tag"
    function hits(n)
      for i = 1, n do
        cache:set(keys[i % 100 + 1], value, 600, tag)
        if at_end then at_end() end
      end
    end
  end
  hits(1000) -- a use is counted up to its maximum by calls into C
]]

local TRACE = PREPARE .. [[
  jit.flush()
  require("jit.v").on(path)
  compile(hits)
  hits(20000)
  require("jit.v").off()
  collectgarbage()
  collectgarbage "stop"
  local before = collectgarbage "count"
  hits(1000000)
  local grown = collectgarbage "count" - before
  collectgarbage "restart"
  return grown * 1024
]]

-- A loop that is recorded while its entries are new, and what is recorded when they are used often.
local NEW = HOT .. [[
  local path = ...
  local cache = cache
  local function fail() error "not to be run" end
  local keys = {}
  for i = 1, 50 do
    keys[i] = "new " .. i
    assert(cache:set(keys[i], "text", 600))
    cache:fetch(keys[i], 60, fail)
  end
  local function hits(n)
    for i = 1, n do
      cache:fetch(keys[i % 50 + 1], 60, fail)
      if at_end then at_end() end
    end
  end
  jit.flush()
  require("jit.v").on(path .. "-new")
  compile(hits)
  require("jit.v").off()
  require("jit.v").on(path .. "-often")
  hits(20000)
  require("jit.v").off()
]]

local DUMP = PREPARE .. [[
  jit.flush()
  require("jit.dump").on("is", path)
  compile(hits)
  hits(20000)
  require("jit.dump").off()
]]

local SETS = { "a string", "a number", "false", "nil", "a string with a tag" }
local KINDS = { "one key", "a string", "a number", "a table", "false", "nil", "get", "a typed table", "a struct" }

describe("a hit", function()
  local n, dir
  setup(function()
    n = node.start { workers = 1, options = {} }
    dir = helper.temp_dir()
  end)

  local function trace(kind)
    local path = dir .. "/" .. kind:gsub("%W", "-")
    local grown = n:run(TRACE, kind, path)
    -- What the tracer itself does when it is switched off does not count, nor where the spec's own loops stand.
    local traces = assert(helper.read_file(path)):gsub("[^\n]*[ /]v%.lua:[^\n]*\n", "")
    traces = traces:gsub("[^\n]* posted:%d+ %-%- inner loop in root trace[^\n]*\n", "")
    assert.matches("%[TRACE +%d+ posted:%d+ loop%]", traces)
    assert.is_nil(traces:match "[^\n]*%-%-%-[^\n]*", "an aborted trace")
    assert.is_nil(traces:match "[^\n]*NYI[^\n]*")
    assert.is_nil(traces:match "[^\n]*stitch[^\n]*", "a call that cannot be compiled")
    return grown
  end

  for _, kind in ipairs(KINDS) do
    it("in L0 is compiled and makes no garbage: " .. kind, function()
      local grown = trace("l0 " .. kind)
      assert.is_true(grown < 1024, grown .. " bytes for a million hits")
    end)
  end

  for _, kind in ipairs(KINDS) do
    it("in L1 is compiled: " .. kind, function()
      trace("l1 " .. kind)
    end)
  end

  for _, kind in ipairs { "a string", "a table", "get", "a typed table", "a struct" } do
    it("in L1 that takes a place in L0 is compiled: " .. kind, function()
      trace("l1,l0 " .. kind)
    end)
  end

  it("in L0 keeps to the trace that was recorded while its entry was new", function()
    n:run(NEW, dir .. "/use")
    assert.matches("%[TRACE +%d+ posted:%d+ loop%]", assert(helper.read_file(dir .. "/use-new")))
    -- The tracer's own start is none of it.
    local later = assert(helper.read_file(dir .. "/use-often")):gsub("[^\n]*[ /]v%.lua:[^\n]*\n", "")
    assert.is_nil(later:match "[^\n]*posted[^\n]*")
    assert.is_nil(later:match "[^\n]*l0%.lua[^\n]*")
  end)

  for _, kind in ipairs { "one key", "a string", "a table", "nil", "get", "a typed table", "a struct" } do
    it("in L0 calls no C and makes no object: " .. kind, function()
      local path = dir .. "/dump"
      os.remove(path)
      n:run(DUMP, "l0 " .. kind, path)
      local loops = 0
      for loop in assert(helper.read_file(path)):gmatch "%-%-%-%-%-%- LOOP %-+\n(.-)%-%-%-%- TRACE %d+ stop" do
        loops = loops + 1
        for line in loop:gmatch "%d%d%d%d[^\n]+" do
          -- 0117 }  cdt CNEWI  +589  0116      a brace: sunk, it is made at exits only
          local sunk, op = line:match "^%d+ [> ]?(}?)[> +]* *%a%w%w (%u+)"
          if op then
            assert.is_nil(op:match "^CALL", line)
            assert.is_falsy(sunk == "" and (op:match "^[TCSX]+NEWI?$" or op:match "^TDUP$" or op:match "^BUF"), line)
          end
        end
      end
      assert.equal(1, loops)
    end)
  end

  for _, kind in ipairs(SETS) do
    it("or a set, without Redis, is compiled: " .. kind, function()
      local grown = trace("set " .. kind)
      if kind == "a string" then
        assert.is_true(grown < 1024, grown .. " bytes for a million sets")
      end
    end)
  end

  it("in L0 of a plain program is compiled", function()
    local status, output = helper.luajit(HOT .. [[
      local gorge = require "gorge"
      local cache = assert(gorge.new { namespace = "jit" })
      cache:set("k", { 1 }, 600)
      local function fail() error "not to be run" end
      local function hits(n)
        for _ = 1, n do
          cache:fetch("k", 60, fail)
          if at_end then at_end() end
        end
      end
      hits(20)
      jit.flush()
      require("jit.v").on("]] .. dir .. [[/plain")
      compile(hits)
      hits(20000)
      require("jit.v").off()
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      hits(1000000)
      print((collectgarbage "count" - before) * 1024)
    ]])
    assert.equal(0, status, output)
    assert.is_true(tonumber(output) < 1024, output)
    local traces = helper.read_file(dir .. "/plain")
    assert.matches("%[TRACE +%d+ main.lua:%d+ loop%]", traces)
    assert.is_nil(traces:match "[^\n]*%-%-%-[^\n]*")
    assert.is_nil(traces:match "[^\n]*stitch[^\n]*")
  end)
end)
