-- SPDX-License-Identifier: MIT
-- gorge delete: forget keys.

local peek = require "gorge.cli.peek"
local write = require "gorge.cli.write"

local _M = {}

function _M.describe(command)
  command:description "Forgets keys on every node, as cache:delete does."
  command:argument("keys", "The keys."):argname "KEY":args "+"
  command:flag("-e --escaped", "Keys are written as gorge prints them: \\xNN stands for a byte.")
  write.describe(command, [[
  gorge delete my-app user:101
  gorge delete my-app user:101 user:102 --json
  gorge delete my-app --escaped 'user:\x00\x01']])
end

function _M.run(args)
  local keys = {}
  for i, key in ipairs(args.keys) do
    keys[i] = peek.bytes_of(key, args.escaped, 8192)
  end
  return write.run(args, "key", keys, "deleted")
end

return _M
