-- SPDX-License-Identifier: MIT
-- gorge peek: what L1 holds of a key.

local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local zones = require "gorge.cli.zones"

local _M = {}

local SHOWN = 1000 -- bytes of a value, for people

---The bytes that an argument stands for.
---@param given string
---@param escaped boolean
---@param most integer bytes
---@return string
function _M.bytes_of(given, escaped, most)
  local bytes = given
  if escaped then
    bytes = format.unescape(given) or output.fail(output.USAGE, "a backslash in an escaped key begins \\xNN")
  end
  if bytes == "" or #bytes > most then
    output.fail(output.USAGE, ("a key or tag like this has 1 to %d bytes, not %d"):format(most, #bytes))
  end
  return bytes
end

function _M.describe(command)
  command:description "Shows what shared memory (L1) holds of a key. Redis is not asked, and the look does not count as a use."
  command:argument("key", "The key.")
  command:flag("-e --escaped", "KEY is written as gorge prints keys: \\xNN stands for a byte.")
  command:flag("--value", "Show the stored bytes, too: they may be private.")
  command:epilog [[
Examples:
  gorge peek my-app user:101
  gorge peek my-app user:101 --value --json
  gorge peek my-app --escaped 'user:\x00\x01'

Exit status: 0; 1 when L1 does not hold the key; 3 when it cannot attach.]]
end

local function tell(told)
  local rows = {
    { "key", told.key },
    { "namespace", told.namespace },
    { "ttl", format.time(told.ttl) },
    { "kind", told.negative and 'remembered as "there is no such thing"' or told.kind },
    { "size", format.bytes(told.size) },
    { "version", told.version or "none: not from Redis" },
    { "tags", #told.tags > 0 and table.concat(told.tags, ", ") or "none" },
  }
  if told.value then
    rows[#rows + 1] = { "value", #told.value > SHOWN and told.value:sub(1, SHOWN) .. "..." or told.value }
  end
  output.say(format.table(rows))
end

function _M.run(args)
  local key = _M.bytes_of(args.key, args.escaped, 8192)
  local seen = zones.attach(args)
  local ns = zones.namespace(seen, args.namespace)
  local found = seen:peek(ns.number, key)
  local told = { key = format.escape(key), namespace = format.escape(ns.name), zone = format.escape(seen.zone), found = found ~= nil }
  if found then
    told.ttl, told.kind, told.size, told.version = found.ttl, found.kind, found.size, found.version
    told.negative = found.kind == "nothing"
    told.tags = {}
    for i, tag in ipairs(found.tags) do
      told.tags[i] = format.escape(tag)
    end
    told.value = args.value and format.escape(found.value) or nil
  end
  if args.json then
    told.tags = told.tags and output.array(told.tags)
    output.json(told)
  elseif found then
    tell(told)
  else
    output.say(("%s is not in L1"):format(told.key))
  end
  return found and output.OK or output.NOTHING
end

return _M
