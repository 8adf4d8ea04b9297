-- SPDX-License-Identifier: MIT
-- gorge clear: forget a namespace.

local output = require "gorge.cli.output"
local system = require "gorge.ffi.system"
local text = require "gorge.text"
local write = require "gorge.cli.write"

local _M = {}

function _M.describe(command)
  command:description "Forgets everything in a namespace, on every node, as cache:clear does. Asks first when it is run at a terminal."
  command:flag("-y --yes", "Do not ask.")
  write.describe(command, [[
  gorge clear my-app
  gorge clear my-app --namespace sessions --yes]])
end

function _M.run(args)
  if not args.yes and system.is_terminal(0) then
    io.stderr:write(("Forget everything in %s, on all nodes? [y/N] "):format(text.quote(args.namespace or args.zone)))
    if not (io.stdin:read "*l" or ""):match "^%s*[yY]" then
      output.fail(output.NOTHING, "nothing was done")
    end
  end
  return write.run(args, "all", { "" }, "cleared")
end

return _M
