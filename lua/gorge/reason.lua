-- SPDX-License-Identifier: MIT
-- What was found out about a key, in one sentence.

local text = require "gorge.text"

local concat = table.concat
local format = string.format

local _M = {}

---@param seconds number
local function time(seconds)
  if seconds < 0.9995 then
    return format("%.0f ms", seconds * 1000)
  end
  return format(seconds < 9.95 and "%.1f s" or "%.0f s", seconds)
end

---A tag that speaks against a value.
---@param tags table[]
---@return string|nil
local function changed(tags, gone)
  for _, tag in ipairs(tags) do
    if tag.same == false then
      local quoted = "tag " .. text.quote(tag.name)
      return gone and not tag.there and quoted .. " is not there any more" or quoted .. " was invalidated since it was stored"
    end
  end
end

local L0 = {
  good = "good",
  replaced = "of an entry that L1 has no more",
  invalidated = "something was invalidated since",
  expired = "its time is over",
  closed = "may not be read, no contact to Redis",
}

local function life(layer)
  local what = layer.negative and '"no such thing", ' or ""
  return what .. time(layer.ttl) .. " left"
end

---@param l1 table as in gorge.Explanation
---@param tags table[]
---@return string
function _M.l1(l1, tags)
  local state = l1.state
  if state == "none" then
    return "L1: not there"
  elseif state == "good" then
    return "L1: good, " .. life(l1)
  elseif state == "due" then
    return "L1: due for a refresh, " .. life(l1)
  elseif state == "closed" then
    return "L1: may not be read, no contact to Redis"
  elseif state == "tag changed" then
    return "L1: " .. (changed(tags) or "one of its tags was invalidated since it was stored")
  elseif state == "stale" then
    return "L1: ended " .. time(l1.past) .. " ago, kept for " .. time(l1.stale_left) .. " yet"
  end
  return "L1: expired " .. time(l1.past) .. " ago"
end

---@param l2 table
---@param tags table[]
---@param l1 table
---@return string
function _M.l2(l2, tags, l1)
  local state = l2.state
  if state == "none" then
    return "L2: not there"
  elseif state == "good" then
    local newer = l1.version and l2.version and l2.version > l1.version
    return "L2: " .. (newer and "holds a newer version, " or "good, ") .. life(l2)
  elseif state == "tag changed" then
    return "L2: " .. (changed(tags, true) or "one of its tags was invalidated since it was stored")
  elseif state == "stale" then
    return "L2: ended " .. time(l2.past or 0) .. " ago, kept for " .. time(l2.stale_left) .. " yet"
  elseif state == "expired" then
    return "L2: expired"
  elseif state == "damaged" then
    return "L2: cannot be read: " .. text.printable(l2.error or "damaged", 120)
  elseif state == "error" then
    return "L2: " .. text.printable(l2.error or "no answer", 120)
  end
  return "L2: not asked, " .. l2.why
end

local FLIGHTS = {
  lapsed = "a fill on this host is overdue or its worker died: it would be taken over",
  ["given up"] = "a fill on this host was given up: it would be taken over",
  overtaken = "a fill on this host began before an invalidation: nobody waits for it",
}

---@param flight table
---@return string
function _M.flight(flight)
  return FLIGHTS[flight.state] or "a fill in progress on this host would be waited for, its lease ends in " .. time(flight.deadline)
end

---@param ttl number
---@return string
function _M.lease(ttl)
  return "the lease of a fill on another node would be waited for, " .. time(ttl) .. " of it left"
end

---@param told gorge.Explanation
---@param facts { l1: table[], l2: table[], redis: boolean }
---@param outcome string[] what follows from it
---@return string
function _M.sentence(told, facts, outcome)
  local parts = {}
  if L0[told.l0.state] then
    parts[1] = "L0: " .. L0[told.l0.state]
  end
  if told.l0.state ~= "good" then
    parts[#parts + 1] = _M.l1(told.l1, facts.l1)
    if told.found ~= "l1" and facts.redis then
      parts[#parts + 1] = _M.l2(told.l2, facts.l2, told.l1)
    end
  end
  for _, part in ipairs(outcome) do
    parts[#parts + 1] = part
  end
  return concat(parts, "; ")
end

return _M
