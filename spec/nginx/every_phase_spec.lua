-- SPDX-License-Identifier: MIT
-- Each call in each phase of nginx, with Redis and without, waiting and not: a test for each.
local every = require "spec.nginx.every_phase"

local results

setup(function() results = every.run() end)

for row, phases in ipairs(every.ROWS) do
  for _, phase in ipairs(phases) do
    describe("in the phase " .. phase, function()
      for _, cell in ipairs(every.CELLS) do
        local expected = every.expected(cell, row, phase)
        if expected then
          it(cell[1], function()
            assert.equal(expected, results[phase .. "/" .. cell[1]])
          end)
        end
      end
    end)
  end
end
