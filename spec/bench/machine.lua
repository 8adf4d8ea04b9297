-- SPDX-License-Identifier: MIT
--- What a figure was read on: the machine, and the versions of what took part.
local process = require "spec.support.process"

local _M = {}

local function output(...)
  local status, text = process.run { ... }
  return status == 0 and text:gsub("%s+$", "") or ""
end

local function package_version(name)
  return output("dpkg-query", "-W", "-f", "${Version}", name):match "^%S+$"
end

local function read(path, pattern)
  return (process.read_file(path) or ""):match(pattern)
end

---@return table
function _M.versions()
  local versions = {}
  for name, package in pairs {
    nginx = "nginx", ngx_lua = "libnginx-mod-http-lua", luajit = "luajit2", lrucache = "lua-resty-lrucache",
    lua_resty_core = "lua-resty-core", redis = "redis-server",
  } do
    versions[name] = package_version(package)
  end
  return versions
end

---@return table
function _M.machine()
  local _, cores = (process.read_file "/proc/cpuinfo" or ""):gsub("processor%s*:", "")
  return {
    processor = read("/proc/cpuinfo", "model name%s*:%s*([^\n]+)"),
    cores = cores,
    memory_mb = math.floor((tonumber(read("/proc/meminfo", "MemTotal:%s*(%d+)")) or 0) / 1024),
    kernel = read("/proc/version", "Linux version (%S+)"),
  }
end

--- The commit that is checked out, with a plus when files differ from it.
---@return string|nil
function _M.commit()
  local commit = output("git", "rev-parse", "--short=12", "HEAD"):match "^%x+$"
  if commit and output("git", "status", "--porcelain", "--untracked-files=no", "--", "core", "lua") ~= "" then
    commit = commit .. "+"
  end
  return commit
end

return _M
