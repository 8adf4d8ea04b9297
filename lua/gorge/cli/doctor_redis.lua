-- SPDX-License-Identifier: MIT
-- gorge doctor, Redis: reachability, version, memory, persistence, rights and latency.

local asker = require "gorge.ffi.asker"
local cluster = require "gorge.cli.doctor_cluster"
local format = require "gorge.cli.format"
local text = require "gorge.text"

local _M = {}

local LEAST_VERSION = 5 -- streams
local PINGS, SLOW = 25, 0.005

local function shown(said)
  return text.printable(said or "", 200)
end

local function check_server(findings, info)
  local version = info:match "redis_version:([^\r\n]+)"
  local kind = info:match "valkey_version:([^\r\n]+)"
  local major = tonumber((version or ""):match "^(%d+)")
  local name = kind and "Valkey " .. kind or "Redis " .. (version or "of an unknown version")
  findings:add("redis version", major and major >= LEAST_VERSION and "ok" or "bad", shown(name) .. (major and major >= LEAST_VERSION and ""
    or ", 5.0 at least is needed"))
  local role = info:match "\nrole:(%w+)"
  if role and role ~= "master" and not info:find("\ncluster_enabled:1", 1, true) then
    findings:add("redis role", "bad", "it is a " .. shown(role) .. ": gorge writes, and needs the master")
  end
  if (tonumber(info:match "\nloading:(%d)") or 0) ~= 0 then
    findings:add("redis loading", "warn", "it is loading its data, and answers nothing until it is done")
  end
end

local function check_memory(findings, info)
  local policy, most = info:match "maxmemory_policy:([^\r\n]+)", tonumber(info:match "\nmaxmemory:(%d+)")
  local used = tonumber(info:match "\nused_memory:(%d+)")
  if policy and most and used then
    local limit = most == 0 and "no limit" or ("%s of %s"):format(format.bytes(used), format.bytes(most))
    if policy == "noeviction" and most > 0 and used > 0.9 * most then
      findings:add("redis memory", "warn", limit .. ", policy noeviction: when it is full, values are not stored any more")
    elseif most == 0 then
      findings:add("redis memory", "warn", format.bytes(used) .. " used, maxmemory 0: it grows until the machine has no memory left")
    else
      findings:add("redis memory", "ok", limit .. ", maxmemory-policy " .. shown(policy) .. ": any is safe")
    end
  end
end

local function check_persistence(findings, info)
  local aof, saved = info:match "aof_enabled:(%d)", info:match "rdb_last_bgsave_status:(%w+)"
  if aof then
    findings:add("redis persistence", "ok", ("append-only file %s; after a restart without its data all hosts begin anew"):format(
      aof == "1" and "on" or "off"))
  end
  if saved == "err" then
    findings:add("redis snapshots", "bad", "the last one failed: Redis may refuse writes (stop-writes-on-bgsave-error)")
  end
end

local function check_rights(findings, redis)
  local ok, err = redis:ask("EVAL", "return redis.call('PING')", "0")
  findings:add("redis scripts", ok and "ok" or "bad", ok and "may be run" or "cannot be run: " .. shown(err))
end

local function check_latency(findings, redis)
  local times = {}
  for i = 1, PINGS do
    local seconds, err = redis:ping()
    if not seconds then
      findings:add("redis latency", "bad", "PING was not answered: " .. shown(err))
      return
    end
    times[i] = seconds
  end
  table.sort(times)
  local median = times[math.ceil(PINGS / 2)]
  findings:add("redis latency", median < SLOW and "ok" or "warn", ("%s in the middle, %s at most, of %d round trips"):format(
    format.time(median), format.time(times[PINGS]), PINGS))
end

---@param findings gorge.cli.Findings
---@param address table the option `redis`, parsed
function _M.check(findings, address)
  local redis, err = asker.open(address)
  if not redis then
    findings:add("redis", "bad", ("%s: %s"):format(address.display, shown(err)))
    return
  end
  findings:add("redis", "ok", address.display .. " answers")
  local info, why = redis:ask "INFO"
  if info then
    info = "\n" .. info:gsub("\r", "")
    check_server(findings, info)
    check_memory(findings, info)
    check_persistence(findings, info)
  else
    findings:add("redis info", "note", "version, memory and persistence cannot be seen: " .. shown(why))
  end
  check_rights(findings, redis)
  check_latency(findings, redis)
  if info and info:find("\ncluster_enabled:1", 1, true) then
    cluster.check(findings, redis, address)
  end
end

return _M
