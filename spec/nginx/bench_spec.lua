-- SPDX-License-Identifier: MIT
-- `make bench` runs, and says what it promises: a line for each comparison, a file of results, what was not compiled. Its figures are not looked at here.
local cjson = require "cjson"
local helper = require "spec.helper"

local function bench(env)
  local dir = helper.temp_dir()
  env.RESULTS = env.RESULTS or dir .. "/results.json"
  env.GORGE_BUILD = helper.paths.build
  for _, name in ipairs { "MLCACHE", "LUA_RESTY_LOCK", "LUA_RESTY_REDIS" } do
    env[name] = env[name] or false
  end
  local status, output = helper.process.run { "luajit", "spec/bench/run.lua", env = env, cwd = helper.paths.root, timeout = 200 }
  local text = helper.read_file(env.RESULTS)
  return status, output, text and cjson.decode(text)
end

local function by_id(results)
  local rows = {}
  for _, row in ipairs(results.rows) do
    rows[row.id] = row
  end
  return rows
end

describe("make bench", function()
  it("measures hits beside their peers, compiled, with one worker and with two", function()
    local status, output, results = bench { QUICK = "1", RUNS = "3", ROWS = "l0-hot, l1-hot*" }
    assert.equal(0, status, output)
    assert.matches("\nfetch, L0: one hot key +1 +[%d.]+ ns %([%d.]+%-[%d.]+%) +lrucache [%d.]+ ns %([%d.]+%-[%d.]+%) +[%d.]+ +<= 1.10 +N?O?T? ?[mM]", output)
    assert.matches("\n +mlcache 5.70 ns %(reference%)\n", output)
    assert.matches("\nfetch, L1: one hot key, 100 B, sum +2 +[%d.]+ [kM]/s .* ngx.shared .* >= 8 ", output)
    assert.matches("\n +gorge, 1 worker .* >= 1.70 ", output)
    assert.matches("\n%d of 6 targets met; ", output)
    local rows = by_id(results)
    assert.same({ "l0-hot", "l1-hot", "l1-hot-2w" }, { results.rows[1].id, results.rows[2].id, results.rows[3].id })
    assert.equal(3, #results.rows)
    local line = rows["l1-hot"].lines[1]
    assert.same({ "gorge", "ngx.shared", "s" }, { line.of.name, line.against.name, line.unit })
    assert.equal(3, #line.of.samples)
    assert.is_true(line.of.min <= line.of.median and line.of.median <= line.of.max)
    assert.is_true(line.of.min > 1e-9 and line.of.max < 1e-4, line.of.min .. " " .. line.of.max)
    assert.equal(line.ratio.median <= 0.4, line.met)
    assert.equal(rows["l1-hot-2w"].lines[1].ratio.median >= 8, rows["l1-hot-2w"].lines[1].met)
    local measured = rows["l1-hot"].measured
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT", measured.date)
    assert.is_string(measured.versions.nginx)
    assert.is_true(measured.machine.cores >= 1)
    for id, row in pairs(rows) do
      assert.is_nil(next(row.traces.gorge), id .. ": " .. output)
    end
  end)

  it("measures sets, memory, storms, tags and Redis", function()
    local status, output, results = bench { QUICK = "1", RUNS = "1", ROWS = "memory storm tag-l1 set-full l2-serial l2-many" }
    assert.equal(0, status, output)
    local rows = by_id(results)
    for _, id in ipairs { "set-full", "memory", "storm", "tag-l1", "l2-serial", "l2-many" } do
      assert.is_table(rows[id], id .. output)
    end
    assert.equal(1, rows.storm.lines[2].of.median)
    assert.matches("\nmemory per entry, 20 B %+ 100 B +1 +%d+ B ", output)
  end)

  it("keeps the rows of the file that are not measured", function()
    local path = helper.temp_dir() .. "/results.json"
    helper.write_file(path, [[{ "rows": [{ "id": "l0-zipf", "kept": true }, { "id": "gone" }] }]])
    local status, output, results = bench { QUICK = "1", RUNS = "1", ROWS = "l0-hot", RESULTS = path }
    assert.equal(0, status, output)
    assert.same({ "l0-hot", "l0-zipf" }, { results.rows[1].id, results.rows[2].id })
    assert.is_true(results.rows[2].kept)
  end)

  it("says what is wrong with how it was called", function()
    for message, env in pairs {
      ["ROWS: there is no row l1-; ROWS=list prints all"] = { ROWS = "l0-hot l1-" },
      ["RUNS must be a number from 1 to 99, got many"] = { RUNS = "many" },
      ["MLCACHE: there is no lib/resty/mlcache.lua in /nowhere"] = { MLCACHE = "/nowhere" },
    } do
      local status, output = bench(env)
      assert.equal(2, status, output)
      assert.matches(message, output, 1, true)
    end
  end)

  it("fails when something breaks", function()
    local status, output = bench { QUICK = "1", ROWS = "l1-hot", NGINX = "/bin/false" }
    assert.equal(1, status, output)
    assert.matches("\nfetch, L1: one hot key, 100 B +broken: .*nginx ended", output)
    assert.matches(", 1 broken; ", output, 1, true)
  end)
end)
