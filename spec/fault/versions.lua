-- SPDX-License-Identifier: MIT
--- A load whose values tell how old they are. The database of the application are rows, files with a number each. One writer raises a row, then makes the
--- cache forget it, or sets it; it remembers when Redis confirmed that. Readers on all hosts remember when they began to read, and what they got. What was
--- confirmed longer than some bound before a read began must be in what it got.
local cjson = require "cjson"
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local READERS = 3

local _M = {}

---@class gorge.spec.Versions
local Versions = {}
Versions.__index = Versions

local WRITER = [[
  local path, rows, changes, pause = ...
  local change = {
    delete = function(key) return cache:delete(key) end,
    tag = function(key) return cache:invalidate_tags("tag of " .. key) end,
    set = function(key, n) return cache:set(key, n, 60, "tag of " .. key) end,
    update = function(key, n) return cache:update(key, 60, function() return n end, "tag of " .. key) end,
  }
  background("writes", function()
    local n, log, failed = 0, {}, 0
    while not counts:get "open stop" do
      local row = n % rows + 1
      local how = changes[math.floor(n / rows) % #changes + 1]
      n = n + 1
      local file = path .. "." .. row
      write_file(file .. ".new", tostring(n))
      assert(os.rename(file .. ".new", file))
      if change[how]("row " .. row, n) then
        log[#log + 1] = { n, now(), row }
        count "confirmed"
      else
        failed = failed + 1
      end
      ngx.sleep(pause)
      while counts:get "open hold" and not counts:get "open go on" do
        counts:set("holding", 1)
        ngx.sleep(0.002)
      end
    end
    return { log = log, failed = failed, last = n }
  end)
]]

-- Every other read is of a key that nobody has. How long a read took is told without the time in which this process could not run, or was busy with
-- others, as far as a second thread finds out. The same text for nginx and for a program of its own.
local READER = [[
  local path, rows, pause, name, least, stopped, sleep, spawn = ...
  local over, late = false, 0
  local function watch()
    while not over do
      local since = now()
      sleep(0.01)
      late = late + math.max(0, now() - since - 0.015)
    end
  end
  local function fetch(...)
    local began, late_before = now(), late
    local value, err = cache:fetch(...)
    local ended = now()
    sleep(0) -- the second thread comes first
    return value, err, began, ended - began - (late - late_before)
  end
  local function load_row(_, row) return tonumber(read_file(path .. "." .. row)) end
  local function load_cold(key) return "value of " .. key end
  return function()
    local log, errors, slowest, cold = {}, {}, 0, 0
    local function failed(key, value, err)
      if #errors < 5 then errors[#errors + 1] = ("%s: %s, %s"):format(key, tostring(value), tostring(err)) end
    end
    spawn(watch)
    while #log < least or not stopped() do
      local row = math.random(rows)
      local key = "row " .. row
      local value, err, began, took = fetch(key, 60, load_row, "tag of " .. key, { args = { row } })
      if err or not value then failed(key, value, err) end
      log[#log + 1] = { began, value or -1, row }
      cold = cold + 1
      key = name .. cold
      local got, cold_err, _, cold_took = fetch(key, 60, load_cold)
      if cold_err or got ~= "value of " .. key then failed(key, got, cold_err) end
      slowest = math.max(slowest, took, cold_took)
      sleep(pause)
    end
    over = true
    return { log = log, errors = errors, slowest = slowest }
  end
]]

local IN_NGINX = ("local chunk = setfenv(loadstring(%q), getfenv(1))\n"):format(READER) .. [[
  local path, rows, pause, name, least = ...
  background(name, chunk(path, rows, pause, name, least, function() return counts:get "open stop" end, ngx.sleep, ngx.thread.spawn))
]]

local PROGRAM = ([[
  local gorge, socket, cjson = require "gorge", require "socket", require "cjson"
  local env = setmetatable({ now = socket.gettime, cache = assert(gorge.new({{options}})) }, { __index = _G })
  function env.read_file(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read "*a"
    file:close()
    return text
  end
  local function stopped() return io.open("{{stop}}") ~= nil end
  gorge.run(function()
    local results, open = {}, {{readers}}
    for i = 1, {{readers}} do
      gorge.spawn(function()
        results[i] = setfenv(loadstring(%q), env)("{{path}}", {{rows}}, {{pause}}, "program " .. i .. " ", {{reads}}, stopped, gorge.sleep, gorge.spawn)()
        open = open - 1
        if open == 0 then
          local file = assert(io.open("{{result}}.new", "wb"))
          file:write(cjson.encode { readers = results, stats = env.cache:stats() })
          file:close()
          os.rename("{{result}}.new", "{{result}}")
          env.cache:close()
        end
      end)
    end
  end)
]]):format(READER)

--- Starts it.
--- opts: nodes: gorge.spec.Node[], the first one writes; program: options for gorge.new, one more host that reads, in gorge.run; rows (1);
--- changes: in turn, of "delete", "tag", "set", "update" ({ "delete" }); pause: seconds after each pair of reads (0.005);
--- reads: so many by each reader at least, also when it is to end before (30).
---@param opts table
---@return gorge.spec.Versions
function _M.begin(opts)
  local self = setmetatable({ nodes = opts.nodes, rows = opts.rows or 1, dir = helper.temp_dir() }, Versions)
  local path, pause, least = self.dir .. "/row", opts.pause or 0.005, opts.reads or 30
  self.path = path
  for row = 1, self.rows do
    helper.write_file(path .. "." .. row, "0")
  end
  self.nodes[1]:run(WRITER, path, self.rows, opts.changes or { "delete" }, 0.02)
  for _, n in ipairs(self.nodes) do
    for i = 1, READERS do
      n:run(IN_NGINX, path, self.rows, pause, "reads " .. i .. " ", least)
    end
  end
  if opts.program then
    local values = { options = node.literal(opts.program), stop = self.dir .. "/stop", result = self.dir .. "/result", readers = READERS, reads = least,
      path = path, rows = self.rows, pause = pause }
    helper.write_file(self.dir .. "/program.lua", (PROGRAM:gsub("{{(%l+)}}", function(name) return tostring(values[name]) end)))
    self.program = helper.spawn { "luajit", self.dir .. "/program.lua", stdout = self.dir .. "/program.log",
      env = { LUA_PATH = helper.paths.lua_path .. ";" .. helper.paths.root .. "/?.lua;;" } }
  end
  return self
end

local function open(nodes, gate)
  for _, n in ipairs(nodes) do
    n:run([[open(...)]], gate)
  end
end

--- Calls `fn` while the writer holds, between two writes.
---@param fn fun()
function Versions:while_held(fn)
  local writer = self.nodes[1]
  writer:run [[counts:delete "holding" counts:delete "open go on" open "hold"]]
  helper.wait_until(function() return writer:run [[return counts:get "holding"]] == 1 end)
  fn()
  writer:run [[counts:delete "open hold" open "go on"]]
end

--- Waits until Redis has confirmed so many more writes.
---@param more integer
function Versions:wait_confirmed(more)
  local writer = self.nodes[1]
  local first = writer:counted "confirmed"
  helper.wait_until(function() return writer:counted "confirmed" >= first + more end,
    { timeout = 30, message = function() return ("%d of %d writes were confirmed"):format(writer:counted "confirmed" - first, more) end })
end

local function result(n, name)
  return helper.wait_until(function()
    local found = n:run([[local text = counts:get("result " .. ...) return text and require("cjson").decode(text)]], name)
    return found and (found[1] or found)
  end, { timeout = 20, message = "no result of " .. name })
end

local function program_result(self)
  helper.write_file(self.dir .. "/stop", "")
  local text = helper.wait_until(function() return helper.read_file(self.dir .. "/result") end,
    { timeout = 20, message = function() return "no result of the program: " .. (helper.read_file(self.dir .. "/program.log") or "") end })
  return cjson.decode(text)
end

--- The largest number of each row that was confirmed before a moment, for moments that only grow.
local function confirmed(log)
  local at, largest = 1, {}
  return function(row, moment)
    while log[at] and log[at][2] <= moment do
      largest[log[at][3]], at = log[at][1], at + 1
    end
    return largest[row] or 0
  end
end

--- What a reader got that it must not have got.
---@return string[] problems the first ones
---@return integer count
local function stale_reads(writes, reads, bound)
  local problems, count = {}, 0
  local least = confirmed(writes.log)
  for _, read in ipairs(reads.log) do
    local must = least(read[3], read[1] - bound)
    if read[2] < must then
      count = count + 1
      problems[#problems + 1] = count <= 5 and ("row %d: %d was read at %.3f, more than %.2f s after %d had been confirmed"):format(read[3],
        read[2], read[1], bound, must) or nil
    end
  end
  return problems, count
end

--- Ends it, and asserts that no read failed, none was older than `bound` allows, and none took longer than `slow`, all in seconds.
---@param bound number
---@param slow number
---@return { log: table[], failed: integer, last: integer } writes
---@return integer reads
---@return table|nil stats of the program
function Versions:finish(bound, slow)
  open(self.nodes, "stop")
  local writes = result(self.nodes[1], "writes")
  local readers = {}
  for _, n in ipairs(self.nodes) do
    for i = 1, READERS do
      readers[#readers + 1] = result(n, "reads " .. i .. " ")
    end
  end
  local stats
  if self.program then
    local told = program_result(self)
    stats = told.stats
    for _, reader in ipairs(told.readers) do
      readers[#readers + 1] = reader
    end
    self.program:wait(10)
  end
  local reads, slowest = 0, 0
  for _, reader in ipairs(readers) do
    assert(#reader.errors == 0, "failed: " .. table.concat(reader.errors, "; "))
    local problems, count = stale_reads(writes, reader, bound)
    assert(count == 0, ("%d stale reads:\n%s"):format(count, table.concat(problems, "\n")))
    reads, slowest = reads + #reader.log, math.max(slowest, reader.slowest)
  end
  assert(slowest < slow, ("a fetch took %.2f s"):format(slowest))
  return writes, reads, stats
end

--- The number that a row has now.
---@param row integer
---@return integer
function Versions:row(row)
  return tonumber(helper.read_file(self.path .. "." .. row))
end

return _M
