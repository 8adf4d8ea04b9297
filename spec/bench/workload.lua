-- SPDX-License-Identifier: MIT
--- Keys and the order in which they are asked for: the same for all sides of a row. Runs inside nginx.
local _M = {}

local DRAWS = 32768
local SEED = 20
local ZIPF = 0.99

-- The same numbers in every run; not math.random, which a library may seed.
local function generator(seed)
  local state = seed
  return function() -- Park and Miller: uniform in (0, 1)
    state = state * 48271 % 2147483647
    return state / 2147483647
  end
end

--- 20 bytes.
---@param i integer
---@param prefix? string 5 bytes
---@return string
function _M.key(i, prefix)
  return ("%s%015d"):format(prefix or "user:", i)
end

---@param n integer
---@return string[]
function _M.keys(n)
  local keys = {}
  for i = 1, n do
    keys[i] = _M.key(i)
  end
  return keys
end

-- Ranks drawn from a Zipf distribution, scattered over the keys so that neighbours in rank are no neighbours in memory.
local function zipf(keys, random)
  local n, sum, cumulated = #keys, 0, {}
  for rank = 1, n do
    sum = sum + rank ^ -ZIPF
    cumulated[rank] = sum
  end
  local place = {}
  for i = 1, n do
    place[i] = i
  end
  for i = n, 2, -1 do
    local j = math.floor(random() * i) + 1
    place[i], place[j] = place[j], place[i]
  end
  local draws = {}
  for i = 1, DRAWS do
    local wanted, low, high = random() * sum, 1, n
    while low < high do
      local middle = math.floor((low + high) / 2)
      if cumulated[middle] < wanted then
        low = middle + 1
      else
        high = middle
      end
    end
    draws[i] = keys[place[low]]
  end
  return draws
end

local orders = {}

-- An array of one key, so that no compiler moves the look-up out of the loop.
function orders.hot(keys)
  local draws = {}
  for i = 1, 1024 do
    draws[i] = keys[1]
  end
  return draws
end

orders.zipf = zipf

function orders.random(keys, random)
  local draws, n = {}, #keys
  for i = 1, n do
    draws[i] = keys[math.floor(random() * n) + 1]
  end
  return draws
end

-- All in turn; as often as it takes to make the array long.
function orders.cycle(keys)
  local draws, n = {}, #keys
  for i = 1, n * math.ceil(1000 / n) do
    draws[i] = keys[(i - 1) % n + 1]
  end
  return draws
end

-- Keys that nobody has asked for before are made while it runs: `fresh`.
orders.fresh = orders.cycle

---@param draw string
---@param keys string[]
---@param worker integer workers draw differently
---@return string[]
function _M.draws(draw, keys, worker)
  return orders[draw](keys, generator(SEED + worker))
end

local made = 0

--- Keys never used before.
---@param n integer
---@return string[]
function _M.fresh(n)
  local keys = {}
  for i = 1, n do
    keys[i] = _M.key(made + i, "cold:")
  end
  made = made + n
  return keys
end

return _M
