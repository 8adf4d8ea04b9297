-- SPDX-License-Identifier: MIT
-- The alerts of examples/metrics: Prometheus takes them, each fires when it should and not before, and README.md shows the same ones.
local helper = require "spec.helper"
local markdown = require "spec.support.markdown"
local process = helper.process
local paths = helper.paths

local RULES = paths.root .. "/examples/metrics/alerts.yml"
local NEEDED = 'namespace="shop", zone="shop", instance="a"'

-- For each alert: series that make it fire, and such that do not. What stands for values is promtool's: start, step and times, once a minute.
local CASES = {
  GorgeLoaderFails = { { "gorge_load_errors_total", "0+6x60" }, { "gorge_loads_total", "0+60x60" }, quiet = { "gorge_load_errors_total", "0+2x60" } },
  GorgeLoaderSlow = {
    { "gorge_load_duration_seconds_bucket", "0+50x60", ', le="1"' }, { "gorge_load_duration_seconds_bucket", "0+60x60", ', le="2"' },
    { "gorge_load_duration_seconds_bucket", "0+60x60", ', le="+Inf"' }, quiet = { "gorge_load_duration_seconds_bucket", "0+60x60", ', le="1"' },
  },
  GorgeWaitsInVain = { { "gorge_wait_timeouts_total", "0+1x60" }, quiet = { "gorge_wait_timeouts_total", "5+0x60" } },
  GorgeMissesMoreThanItHits = { { "gorge_loads_total", "0+61x60" }, { "gorge_hits_total", "0+60x60" }, quiet = { "gorge_loads_total", "0+59x60" } },
  GorgeBreakerOpen = { { "gorge_breaker_state", "1+0x60", ', state="open"' }, quiet = { "gorge_breaker_state", "1+0x60", ', state="closed"' } },
  GorgeWritesNotTold = { { "gorge_dropped_writes_total", "0+1x60" }, quiet = { "gorge_dropped_writes_total", "7+0x60" } },
  GorgeHearsNothing = { { "gorge_lag_seconds", "31+0x60" }, quiet = { "gorge_lag_seconds", "29+0x60" } },
  GorgeL1TooSmall = { { "gorge_evictions_total", "0+40x60" }, { "gorge_inserts_total", "0+60x60" }, quiet = { "gorge_evictions_total", "0+20x60" } },
  GorgeValuesUnreadable = { { "gorge_decode_errors_total", "0+1x60" }, quiet = { "gorge_decode_errors_total", "3+0x60" } },
  GorgeWorkersDie = { { "gorge_worker_deaths_total", "0+1x60" }, quiet = { "gorge_worker_deaths_total", "1+0x60" } },
}

local function rules()
  local found = {}
  for line in (assert(process.read_file(RULES)) .. "\n"):gmatch "(.-)\n" do
    local name = line:match "alert: (%w+)"
    if name then
      found[#found + 1] = { name = name }
    elseif #found > 0 then
      found[#found].expr = line:match "expr: (.+)$" or found[#found].expr
      found[#found].wait = line:match "for: (%w+)" or found[#found].wait
    end
  end
  return found
end

local function series(case)
  return ("      - series: '%s{%s%s}'\n        values: '%s'\n"):format(case[1], NEEDED, case[3] or "", case[2])
end

local function test_of(name, cases, quiet)
  local lines = { "  - interval: 1m\n    input_series:\n" }
  for i, case in ipairs(cases) do
    lines[#lines + 1] = series(quiet and i == 1 and cases.quiet or case)
  end
  lines[#lines + 1] = "    promql_expr_test:\n      - expr: 'count(ALERTS{alertname=\"" .. name .. "\", alertstate=\"firing\"}) or vector(0)'\n"
  lines[#lines + 1] = "        eval_time: 55m\n        exp_samples:\n          - value: " .. (quiet and 0 or 1) .. "\n            labels: '{}'\n"
  return table.concat(lines)
end

local function promtool(...)
  return process.run { "promtool", ... }
end

describe("alerts", function()
  it("are rules that Prometheus takes", function()
    local status, output = promtool("check", "rules", RULES)
    assert.equal(0, status, output)
    assert.matches(#rules() .. " rules found", output, 1, true)
  end)

  it("are about metrics that there are", function()
    local known = {}
    for _, row in ipairs(markdown.table_under(markdown.parse(process.read_file(paths.root .. "/README.md")), "Metrics").rows) do
      known[row[1]:match "`(.-)`"] = row[3]
    end
    for _, rule in ipairs(rules()) do
      for name in rule.expr:gmatch "gorge_[%l_]+" do
        local family = known[name] and name or name:gsub("_bucket$", "")
        assert.is_string(known[family], rule.name .. ": there is no metric " .. name)
        for label in rule.expr:match "by %((.-)%)":gmatch "%w+" do
          if label ~= "le" and label ~= "instance" then
            assert.matches("`" .. label .. "`", known[family], 1, true)
          end
        end
      end
    end
  end)

  it("fire when they should, and not before", function()
    local lines = { "rule_files: ['" .. RULES .. "']\nevaluation_interval: 1m\ntests:\n" }
    local untested = {}
    for name in pairs(CASES) do
      untested[name] = true
    end
    for _, rule in ipairs(rules()) do
      local cases = assert(CASES[rule.name], rule.name .. " has no test")
      untested[rule.name] = nil
      lines[#lines + 1] = test_of(rule.name, cases, false) .. test_of(rule.name, cases, true)
    end
    assert.same({}, untested)
    local file = helper.temp_dir() .. "/test.yml"
    process.write_file(file, table.concat(lines))
    local status, output = promtool("test", "rules", file)
    assert.equal(0, status, output)
  end)

  it("stand in README.md as they are", function()
    local rows = markdown.table_under(markdown.parse(process.read_file(paths.root .. "/README.md")), "What to watch").rows
    local shown = {}
    for i, row in ipairs(rows) do
      shown[i] = { name = row[1]:match "`(.-)`", expr = row[2]:match "^`(.*)`", wait = row[2]:match "for (%w+)$" }
    end
    assert.same(rules(), shown)
  end)
end)
