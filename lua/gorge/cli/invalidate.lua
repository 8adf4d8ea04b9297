-- SPDX-License-Identifier: MIT
-- gorge invalidate: forget what carries a tag.

local peek = require "gorge.cli.peek"
local write = require "gorge.cli.write"

local _M = {}

function _M.describe(command)
  command:description "Forgets every value that carries one of the tags, on every node, as cache:invalidate_tags does."
  command:argument("tags", "The tags."):argname "TAG":args "+"
  command:flag("-e --escaped", "Tags are written as gorge prints them: \\xNN stands for a byte.")
  write.describe(command, [[
  gorge invalidate my-app org:7
  gorge invalidate my-app org:7 users --json]])
end

function _M.run(args)
  local tags = {}
  for i, tag in ipairs(args.tags) do
    tags[i] = peek.bytes_of(tag, args.escaped, 255)
  end
  return write.run(args, "tag", tags, "invalidated")
end

return _M
