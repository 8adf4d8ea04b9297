-- SPDX-License-Identifier: MIT
--- A miss storm: coroutines of two workers ask for one cold key at once, and its loader takes 50 ms. Runs inside nginx.
local clock = require "spec.bench.clock"

local _M = {}

local LOADER_SECONDS = 0.05

function _M.open(bench, _, load)
  local cache, dict = bench.cache, ngx.shared.bench
  return {
    run = function(request)
      local key = "storm:" .. request.token
      local function fn(name)
        dict:add(key .. ":began", clock.now())
        dict:incr(key .. ":loads", 1, 0)
        ngx.sleep(LOADER_SECONDS)
        return load(name)
      end
      local threads, good, last = {}, 0, 0
      local expected = load(key)
      local n = bench.row.keys / request.workers
      for i = 1, n do
        threads[i] = ngx.thread.spawn(function()
          local value = cache:fetch(key, 600, fn)
          last = clock.now()
          good = good + (value == expected and 1 or 0)
        end)
      end
      for i = 1, n do
        assert(ngx.thread.wait(threads[i]))
      end
      return {
        ops = n, good = good, seconds = 0, last = last, began = dict:get(key .. ":began"),
        loads = bench.worker == 0 and dict:get(key .. ":loads") or 0,
      }
    end,
  }
end

return _M
