-- SPDX-License-Identifier: MIT
-- The options that protect what the cache asks: circuit_breaker, for Redis, and origin, for what the user's loaders ask. Checked for options.lua.

local check = require "gorge.check"

local integer = check.integer
local mismatch = check.mismatch
local parse_table = check.parse_table
local seconds = check.seconds
local type = type

local MAX_WAIT = 86400

local _M = {}

local BREAKER_RULES = {
  max_failures = { check = integer(1, 1000000), default = 5 },
  timeout = { check = seconds(MAX_WAIT), default = 30, ms = true },
  slow_call = { check = seconds(MAX_WAIT), ms = true },
}

function _M.breaker(value, name)
  if value == false then
    return false
  elseif value == true then
    return parse_table({}, name .. ".", BREAKER_RULES)
  elseif type(value) == "table" then
    return parse_table(value, name .. ".", BREAKER_RULES)
  end
  return nil, mismatch(name, "a boolean or a table { max_failures =, timeout =, slow_call = }", value)
end

local ORIGIN_RULES = {
  max_concurrency = { check = integer(1, 1000000) },
  max_failures = { check = integer(1, 1000000) },
  timeout = { check = seconds(MAX_WAIT), default = 30, ms = true },
}

function _M.origin(value, name)
  if type(value) ~= "table" then
    return nil, mismatch(name, "a table { max_concurrency =, max_failures =, timeout = }", value)
  end
  local out, problem = parse_table(value, name .. ".", ORIGIN_RULES)
  if out and not out.max_concurrency and not out.max_failures then
    return nil, "option '" .. name .. "' needs max_concurrency or max_failures"
  end
  return out, problem
end

return _M
