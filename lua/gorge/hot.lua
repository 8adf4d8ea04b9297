-- SPDX-License-Identifier: MIT
-- The keys that are used most, from samples of hits: what a key has of the samples is what it has of the hits. What was seen earlier counts less and less.

local _M = {}

local MOST_KEYS = 20000 -- remembered
local FAINT = 0.01 -- of the heaviest: what is not worth remembering

---@class gorge.Hot
---@field keys table<string, table> samples by namespace and key, with their weight
---@field count integer
local Hot = {}
Hot.__index = Hot

---@return gorge.Hot
function _M.new()
  return setmetatable({ keys = {}, count = 0 }, Hot)
end

local function id_of(sample)
  return sample.ns .. ":" .. sample.length .. ":" .. sample.key
end

---@param samples table[] as gorge.Visitor.uses returns them
---@param ns integer|nil only those of this namespace
function Hot:add(samples, ns)
  for _, sample in ipairs(samples) do
    local id = id_of(sample)
    local known = self.keys[id]
    if (known or self.count < MOST_KEYS) and (not ns or sample.ns == ns) then
      self.count = self.count + (known and 0 or 1)
      sample.weight = (known and known.weight or 0) + sample.hits
      self.keys[id] = sample
    end
  end
end

---What was added so far counts only `share` of what it did.
---@param share number
function Hot:fade(share)
  local most = 0
  for _, sample in pairs(self.keys) do
    most = math.max(most, sample.weight)
  end
  self.count = 0
  for id, sample in pairs(self.keys) do
    if sample.weight < most * FAINT then
      self.keys[id] = nil
    else
      sample.weight = sample.weight * share
      self.count = self.count + 1
    end
  end
end

local function heavier(a, b)
  if a.weight ~= b.weight then
    return a.weight > b.weight
  elseif a.frequency ~= b.frequency then
    return a.frequency > b.frequency
  end
  return a.key < b.key
end

---The keys by use, and the weight of all. `others` are keys without samples, which come behind.
---@param others table[]
---@param ns integer|nil
---@return table[]
---@return number total
function Hot:ranked(others, ns)
  local list, total = {}, 0
  for _, sample in pairs(self.keys) do
    list[#list + 1], total = sample, total + sample.weight
  end
  for _, other in ipairs(others) do
    if not self.keys[id_of(other)] and (not ns or other.ns == ns) then
      other.weight = 0
      list[#list + 1] = other
    end
  end
  table.sort(list, heavier)
  return list, total
end

return _M
