-- SPDX-License-Identifier: MIT
--- `make bench`: measures the rows of rows.lua inside nginx and prints them beside their peers. Run from the root of the checkout.
---
---     ROWS="l1-hot set-*"    only these rows, * stands for anything; ROWS=list prints all
---     RUNS=n                 samples of each side (5)
---     QUICK=1                two short runs over few keys: shows that it works, the figures say nothing
---     MLCACHE=DIR            checkout of lua-resty-mlcache to be measured too; else its reference figures are shown
---     LUA_RESTY_LOCK=DIR     checkout of lua-resty-lock, which mlcache needs
---     LUA_RESTY_REDIS=DIR    checkout of lua-resty-redis, to be measured too
---     RESULTS=FILE           where the results go (spec/bench/results.json; with QUICK results.json in the build folder)
---
--- Exit status 0 also when a target is missed; 1 when something broke, 2 when it was called wrongly.
package.path = "./?.lua;./?/init.lua;" .. package.path

local helper = require "spec.helper"
local machine = require "spec.bench.machine"
local measure = require "spec.bench.measure"
local report = require "spec.bench.report"
local rows = require "spec.bench.rows"

local MODULES = { MLCACHE = "resty/mlcache.lua", LUA_RESTY_LOCK = "resty/lock.lua", LUA_RESTY_REDIS = "resty/redis.lua" }

local function fail(text)
  io.stderr:write("bench: ", text, "\n")
  os.exit(2)
end

local function env(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

-- Folders of what Debian does not package, by variable.
local function modules()
  local found = {}
  for name, file in pairs(MODULES) do
    local dir = env(name)
    if dir then
      if not helper.read_file(dir .. "/lib/" .. file) and not helper.read_file(dir .. "/" .. file) then
        fail(("%s: there is no lib/%s in %s"):format(name, file, dir))
      end
      found[name] = dir:sub(1, 1) == "/" and dir or helper.paths.root .. "/" .. dir
    end
  end
  if found.MLCACHE and not found.LUA_RESTY_LOCK then
    fail "MLCACHE needs LUA_RESTY_LOCK too"
  end
  return found
end

local function settings()
  local quick = env "QUICK" ~= nil
  local runs = env "RUNS"
  if runs and not runs:match "^[1-9]%d?$" then
    fail("RUNS must be a number from 1 to 99, got " .. runs)
  end
  return {
    quick = quick,
    runs = tonumber(runs) or quick and 2 or 5,
    seconds = quick and 0.02 or 0.3,
    warm_up = quick and 0.02 or 0.2,
    modules = modules(),
    results = env "RESULTS" or quick and helper.paths.build .. "/results.json" or "spec/bench/results.json",
  }
end

local function ids()
  local list = {}
  for i, row in ipairs(rows.list) do
    list[i] = row.id
  end
  return list
end

local function picked()
  local words = env "ROWS"
  if words == "list" then
    for _, row in ipairs(rows.list) do
      print(("%-14s %s"):format(row.id, row.name))
    end
    os.exit(0)
  end
  local list, unknown = measure.pick(words)
  if unknown then
    fail(("ROWS: there is no row %s; ROWS=list prints all"):format(unknown))
  end
  return list
end

local function print_traces(results)
  local own, peers = {}, {}
  for _, result in ipairs(results) do
    report.traces(result, own, peers)
  end
  if #own == 0 then
    print "\nNo trace was aborted or left to the interpreter in a measured loop of gorge."
  else
    print("\nNot compiled in measured loops of gorge:\n  " .. table.concat(own, "\n  "))
  end
  if #peers > 0 then
    print("Not compiled in those of its peers:\n  " .. table.concat(peers, "\n  "))
  end
end

---@return integer met
---@return integer targets
local function print_lines(result)
  local met, targets, above = 0, 0, nil
  for _, line in ipairs(result.lines) do
    print(report.line(line, line.name == above))
    above = line.name
    targets = targets + (line.met ~= nil and 1 or 0)
    met = met + (line.met and 1 or 0)
  end
  return met, targets
end

local function main(options, list)
  local about = {
    date = os.date "!%Y-%m-%dT%H:%M:%SZ", commit = machine.commit(), machine = machine.machine(), versions = machine.versions(),
    runs = options.runs, seconds = options.seconds, quick = options.quick or nil,
  }
  local m, v = about.machine, about.versions
  print(("gorge %s on %s, %d cores; nginx %s, ngx_lua %s, LuaJIT %s, Redis %s"):format(
    about.commit or "", m.processor or "?", m.cores, v.nginx or "?", v.ngx_lua or "?", v.luajit or "?", v.redis or "?"))
  print(("Median of %d runs of %g s, sides in turn; w: workers at once; reference, and an asterisk: read on another machine.\n"):format(
    options.runs, options.seconds))
  print(report.head())
  io.stdout:flush()
  local results, met, targets, broken = {}, 0, 0, 0
  for _, row in ipairs(list) do
    local result, err
    local built = not row.module or helper.read_file(helper.paths.build .. "/ngx_gorge_module.so")
    if built then
      result, err = measure.row(row, options)
    end
    if not built then
      print(("%-40s not measured: make nginx-module builds what it needs"):format(row.name))
    elseif result then
      results[#results + 1] = result
      report.save(options.results, { result }, about, ids())
      local held, named = print_lines(result)
      met, targets = met + held, targets + named
    else
      broken = broken + 1
      print(("%-40s broken: %s"):format(row.name, err))
    end
    io.stdout:flush()
  end
  print_traces(results)
  print(("\n%d of %d targets met%s; %s"):format(met, targets, broken > 0 and (", %d broken"):format(broken) or "", options.results))
  return broken == 0
end

local options, list = settings(), picked()
local ok, whole = xpcall(main, debug.traceback, options, list)
helper.cleanup()
if not ok then
  io.stderr:write("bench: ", tostring(whole), "\n")
end
os.exit(ok and whole and 0 or 1)
