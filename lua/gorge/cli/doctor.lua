-- SPDX-License-Identifier: MIT
-- gorge doctor: whether this machine has what gorge needs.

local format = require "gorge.cli.format"
local nginx = require "gorge.cli.doctor_nginx"
local options = require "gorge.options"
local output = require "gorge.cli.output"
local redis = require "gorge.cli.doctor_redis"
local text = require "gorge.text"
local version = require "gorge.version"
local visitor = require "gorge.ffi.visitor"
local zones = require "gorge.cli.zones"

local _M = {}

local LEAST_FREE = 64 * 1048576 -- of /dev/shm, what a zone takes by default
local LEAST_FILES = 1024

---@class gorge.cli.Findings
---@field list { name: string, status: string, text: string }[]
local Findings = {}
Findings.__index = Findings

---@param status "ok"|"note"|"warn"|"bad" bad: gorge does not work like this; warn: it may not work well
function Findings:add(name, status, said)
  self.list[#self.list + 1] = { name = name, status = status, text = said }
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local content = file:read "*a"
  file:close()
  return content
end

-- Lua and the library ---------------------------------------------------------------------------------------------------------

local function check_lua(findings)
  local ours = pcall(require, "table.nkeys")
  findings:add("luajit", ours and "ok" or "warn", jit.version .. (ours and ", OpenResty's branch"
    or ", not OpenResty's branch, which lua-resty-core needs: install luajit2"))
  local path = os.getenv "GORGE_LIBRARY"
  findings:add("library", "ok", ("gorge %s, library %s"):format(version, path and path ~= "" and text.printable(path, 200)
    or "found on the usual path"))
  local ok, cjson = pcall(require, "cjson")
  findings:add("cjson", ok and "ok" or "bad", ok and "lua-cjson " .. tostring(cjson._VERSION)
    or "lua-cjson cannot be loaded: install lua-cjson")
end

-- The system ------------------------------------------------------------------------------------------------------------------

local function check_memory(findings)
  local info = read "/proc/meminfo" or ""
  local available = tonumber(info:match "MemAvailable:%s*(%d+)")
  if available then
    findings:add("memory", available * 1024 >= LEAST_FREE and "ok" or "warn", format.bytes(available * 1024) .. " available")
  end
  local pipe = io.popen "df -Pk /dev/shm 2>/dev/null"
  local free = pipe and tonumber((pipe:read "*a" or ""):match "\n%S+%s+%d+%s+%d+%s+(%d+)")
  if pipe then
    pipe:close()
  end
  if not free then
    findings:add("/dev/shm", "warn", "cannot be looked at: zones made in init_worker_by_lua need it, those made in init_by_lua do not")
  else
    findings:add("/dev/shm", free * 1024 >= LEAST_FREE and "ok" or "warn",
      format.bytes(free * 1024) .. " free, for zones made in init_worker_by_lua; those made in init_by_lua do not need it")
  end
end

---The soft limit of a process.
local function limit_of(pid, name)
  local limits = read(("/proc/%s/limits"):format(pid)) or ""
  return limits:match(name .. "%s+(%S+)")
end

local function check_limits(findings)
  local size = limit_of("self", "Max file size")
  if size and size ~= "unlimited" then
    findings:add("file size", "warn", ("limited to %s (ulimit -f): a larger zone is refused"):format(format.bytes(tonumber(size))))
  end
  local space = limit_of("self", "Max address space")
  if space and space ~= "unlimited" then
    findings:add("address space", "warn", ("limited to %s (ulimit -v): zones count, too"):format(format.bytes(tonumber(space))))
  end
  local locked = limit_of("self", "Max locked memory")
  if locked then
    findings:add("locked memory", "ok", ("limited to %s (ulimit -l); zones are not locked and do not count"):format(
      locked == "unlimited" and "nothing" or format.bytes(tonumber(locked))))
  end
end

-- What runs -------------------------------------------------------------------------------------------------------------------

local function check_process(findings, zone)
  local most = limit_of(zone.main.pid, "Max open files")
  if most and most ~= "unlimited" then
    local name = ("zone %s: open files"):format(zones.label(zone.name))
    findings:add(name, tonumber(most) >= LEAST_FILES and "ok" or "warn",
      ("process %d may have %s (worker_rlimit_nofile)"):format(zone.main.pid, most))
  end
end

local function check_zone(findings, zone)
  local name = "zone " .. zones.label(zone.name)
  local seen, err = visitor.attach(zone.main.path, "look")
  if not seen then
    findings:add(name, "warn", zones.describe(zone) .. ": " .. err)
    return
  end
  for _, ns in ipairs(seen:namespaces()) do
    local raw = seen:stats(ns.number)
    local label = ("%s, namespace %s"):format(name, format.escape(ns.name))
    if ns.redis and raw.breaker == 1 then
      findings:add(label, "bad", "the circuit breaker is open: Redis is not asked")
    elseif ns.redis and raw.lag_ms >= 0 and raw.subscribed == 0 then
      findings:add(label, "bad", ("nothing confirmed from other nodes for %s"):format(format.time(raw.lag_ms / 1000)))
    elseif tonumber(raw.queued) > 0 then
      findings:add(label, "warn", ("%s invalidations wait for Redis"):format(format.count(tonumber(raw.queued))))
    else
      findings:add(label, "ok", ("%s values, %d processes at work"):format(format.count(tonumber(raw.entries)), tonumber(raw.workers)))
    end
  end
  check_process(findings, zone)
  seen:close()
end

local function check_zones(findings, wanted)
  local list, hidden = zones.list()
  if wanted then
    list = { zones.choose(wanted) }
  end
  for _, zone in ipairs(list) do
    check_zone(findings, zone)
  end
  if #list == 0 then
    findings:add("zones", "note", "no process has a zone open" .. (hidden > 0
      and (", or it belongs to another user: %d processes cannot be looked at"):format(hidden) or ""))
  end
end

-- The command -----------------------------------------------------------------------------------------------------------------

function _M.describe(command)
  command:description "Checks libraries, versions, limits, nginx, the zones of running workers and, if its address is given, Redis."
  command:argument("zone", "Look at this zone only, not at all."):argname "ZONE":args "?"
  command:option("--redis", "Address of the Redis that the caches use, or of a node of a cluster; else that in the environment variable "
    .. "GORGE_REDIS.")
    :argname "URL"
  command:option("--nginx", "The nginx program, if it is not where it is looked for."):argname "FILE"
  command:epilog [[
Examples:
  gorge doctor
  gorge doctor my-app --redis redis://127.0.0.1:6379/0
  GORGE_REDIS=redis://:a-password@10.0.0.5/0 gorge doctor     # what stands in a command line, others can see
  gorge doctor --json | jq '.checks[] | select(.status != "ok")'

Exit status: 0 when nothing is bad; 1 when something is.]]
end

local function parse_address(url)
  local ok, parsed = pcall(options.parse, { redis = url })
  if not ok then
    output.fail(output.USAGE, (tostring(parsed):gsub("^.-gorge: ", ""):gsub("option 'redis'", "--redis")))
  end
  return parsed.redis
end

local TONES = { ok = "good", note = "dim", warn = "warn", bad = "bad" }

local function tell(findings)
  local rows = {}
  for _, finding in ipairs(findings.list) do
    local mark = finding.status .. (" "):rep(4 - #finding.status)
    rows[#rows + 1] = { output.paint(mark, TONES[finding.status]), finding.name, finding.text }
  end
  output.say(format.table(rows))
end

function _M.run(args)
  local url = args.redis or os.getenv "GORGE_REDIS"
  local address = url and url ~= "" and parse_address(url) or nil
  local findings = setmetatable({ list = {} }, Findings)
  check_lua(findings)
  check_memory(findings)
  check_limits(findings)
  nginx.check(findings, args.nginx)
  check_zones(findings, args.zone)
  if address then
    redis.check(findings, address)
  else
    findings:add("redis", "note", "not looked at: --redis URL names it")
  end
  local bad = false
  for _, finding in ipairs(findings.list) do
    bad = bad or finding.status == "bad"
  end
  if args.json then
    output.json { ok = not bad, version = version, checks = findings.list }
  else
    tell(findings)
  end
  return bad and output.NOTHING or output.OK
end

return _M
