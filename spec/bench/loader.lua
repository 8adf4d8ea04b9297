-- SPDX-License-Identifier: MIT
--- Values: what a loader returns for a key. Runs inside nginx.
local _M = {}

local SIZES = { ["100"] = 100, ["1k"] = 1024, ["10k"] = 10240 }

--- A loader whose values differ from key to key.
---@param value string "100", "1k", "10k" or "table"
---@return fun(key: string): any
function _M.new(value)
  if value == "table" then
    return function(key)
      return { id = key, name = "Ada Lovelace", roles = { "admin", "editor" }, active = true }
    end
  end
  local rest = ("0123456789"):rep(1024):sub(1, SIZES[value] - 20)
  return function(key)
    return key .. rest
  end
end

--- The same, counting its calls in counter[0].
---@param load fun(key: string): any
---@param counter ffi.cdata* clock.counter
function _M.counted(load, counter)
  return function(key)
    counter[0] = counter[0] + 1
    return load(key)
  end
end

return _M
