-- SPDX-License-Identifier: MIT
-- The option redis.tls. No message shows the value of a file's option: it may hold the key itself, in the place of its path. That of a
-- name is masked as an address is.

local check = require "gorge.check"
local redis_url = require "gorge.redis_url"

local find = string.find

local _M = {}

local MAX_PATH = 1023

---@class gorge.TlsOptions
---@field ca? string PEM file of the CAs to trust, default: the system's
---@field cert? string PEM file of this client's certificate
---@field key? string PEM file of its key, without a passphrase
---@field server_name? string name or address that the server's certificate must be for, default: the host
---@field verify? boolean default true

---@class gorge.ParsedTls
---@field ca string|nil
---@field cert string|nil either both cert and key are set or none
---@field key string|nil
---@field server_name string|nil
---@field verify boolean

local function check_file(value, name)
  if type(value) == "string" and #value <= MAX_PATH and find(value, "^/") and not find(value, "[%z\n]") then
    return value
  end
  return nil, "option '" .. name .. "' must be the absolute path of a PEM file, of at most " .. MAX_PATH .. " bytes"
end

local function check_name(value, name)
  if type(value) == "string" and redis_url.is_host(value) then
    return value
  end
  return nil, check.mismatch(name, "a host name, an IPv4 or an IPv6 address", redis_url.masked(value))
end

local RULES = {
  ca = { check = check_file },
  cert = { check = check_file },
  key = { check = check_file },
  server_name = { check = check_name },
  verify = { check = check.boolean, default = true },
}

---@param value any
---@param name string
---@return gorge.ParsedTls|false|nil
---@return string|nil problem
function _M.check(value, name)
  if value == false then
    return false
  elseif value == true then
    value = {}
  elseif type(value) ~= "table" then
    return nil, "option '" .. name .. "' must be a boolean or a table { ca =, cert =, key =, server_name =, verify = }, got a "
      .. type(value)
  end
  local out, problem = check.parse_table(value, name .. ".", RULES)
  if not out then
    return nil, problem
  elseif (out.cert == nil) ~= (out.key == nil) then
    return nil, "options '" .. name .. ".cert' and '" .. name .. ".key' need each other"
  end
  return out
end

return _M
