-- SPDX-License-Identifier: MIT
-- Options that are lists of servers, such as { "10.0.0.1:26379", "[::1]:26379", "name" }.

local check = require "gorge.check"
local redis_url = require "gorge.redis_url"
local text = require "gorge.text"

local concat = table.concat
local find = string.find
local match = string.match
local type = type

local _M = {}

local MOST = 16
local ACCEPTS = '"host:port" (a name, an IPv4 address, or an IPv6 address in brackets)'

---@class gorge.Address
---@field host string
---@field port integer

---@param address any
---@param default_port integer
---@return gorge.Address|nil
local function parse(address, default_port)
  if type(address) ~= "string" then
    return nil
  end
  local host, port = match(address, "^%[([%x:.]*:[%x:.]*)%](.*)$")
  if not host then
    host, port = match(address, "^([^:]*)(.*)$")
  end
  local digits = port == "" and "" or match(port, "^:(%d%d?%d?%d?%d?)$")
  local number = digits == "" and default_port or tonumber(digits)
  if not redis_url.is_host(host) or not number or number < 1 or number > 65535 then
    return nil
  end
  return { host = host, port = number }
end

---A check as check.lua has them. No message shows what may be a secret.
---@param default_port integer
---@param example string
---@return fun(value: any, name: string): gorge.Address[]|nil, string?
function _M.list(default_port, example)
  local accepts = ('an array of 1 to %d addresses such as "%s"'):format(MOST, example)
  return function(value, name)
    if type(value) ~= "table" or #value < 1 or #value > MOST then
      local got = type(value) == "table" and ("%d of them"):format(#value) or text.describe(redis_url.masked(value))
      return nil, "option '" .. name .. "' must be " .. accepts .. ", got " .. got
    end
    for key in next, value do
      if type(key) ~= "number" or key < 1 or key > #value or key % 1 ~= 0 then
        return nil, "option '" .. name .. "' must be " .. accepts .. ", got a table with the key " .. text.describe(key)
      end
    end
    local list = {}
    for i = 1, #value do
      list[i] = parse(value[i], default_port)
      if not list[i] then
        return nil, check.mismatch(name .. "[" .. i .. "]", ACCEPTS, redis_url.masked(value[i]))
      end
    end
    return list
  end
end

---For people.
---@param list gorge.Address[]
---@return string
function _M.display(list)
  local parts = {}
  for i, address in ipairs(list) do
    local host = find(address.host, ":", 1, true) and "[" .. address.host .. "]" or address.host
    parts[i] = ("%s:%d"):format(host, address.port)
  end
  return concat(parts, ", ")
end

---What the core takes.
---@param list gorge.Address[]
---@return string
function _M.lines(list)
  local parts = {}
  for i, address in ipairs(list) do
    parts[i] = ("%s %d\n"):format(address.host, address.port)
  end
  return concat(parts)
end

return _M
