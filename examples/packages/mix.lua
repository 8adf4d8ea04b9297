-- SPDX-License-Identifier: MIT
--- What the demo asks for: few packages often, many seldom (Zipf's law), now and
--- then a section, now and then a package that does not exist.

local dpkg = require "dpkg"

local _M = {}

local SEED = 20240607 -- the same requests in every run

local function shuffle(list)
  for i = #list, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

--- A function that draws from the list; the nth entry is n times rarer than the first.
local function zipf(list)
  local sums, sum = {}, 0
  for rank = 1, #list do
    sum = sum + 1 / rank
    sums[rank] = sum
  end
  return function()
    local point, low, high = math.random() * sum, 1, #list
    while low < high do
      local middle = math.floor((low + high) / 2)
      if sums[middle] < point then
        low = middle + 1
      else
        high = middle
      end
    end
    return list[low]
  end
end

---@class demo.Mix
---@field popular string[] packages, the most asked for first
---@field cold string[] installed packages that `draw` never returns
---@field draw fun(): string a path
---@field restart fun() makes `draw` begin again with the same sequence

---@return demo.Mix
function _M.new()
  math.randomseed(SEED)
  local packages, sections = dpkg.names()
  assert(packages, sections)
  shuffle(packages)
  local cold = {}
  for i = 1, math.min(50, math.floor(#packages / 4)) do
    cold[i] = table.remove(packages)
  end
  local unknown = {}
  for i = 1, 50 do
    unknown[i] = "no-such-package-" .. i
  end
  local draw_package, draw_section, draw_unknown = zipf(packages), zipf(shuffle(sections)), zipf(unknown)
  return {
    popular = packages,
    cold = cold,
    restart = function()
      math.randomseed(SEED)
    end,
    draw = function()
      local dice = math.random()
      if dice < 0.93 then
        return "/package/" .. draw_package()
      elseif dice < 0.97 then
        return "/section/" .. draw_section()
      end
      return "/package/" .. draw_unknown()
    end,
  }
end

return _M
