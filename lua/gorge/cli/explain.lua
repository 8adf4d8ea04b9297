-- SPDX-License-Identifier: MIT
-- gorge explain: what the shared memory of a host says of a key, and what a worker would make of it.

local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local peek = require "gorge.cli.peek"
local reason = require "gorge.reason"
local zones = require "gorge.cli.zones"

local _M = {}

function _M.describe(command)
  command:description "Says why a worker would find a key in shared memory (L1), or not, and whether a fill of it is under way here. \z
    Redis is not asked, and the look does not count as a use. cache:explain says more: Redis, and a worker's own copies."
  command:argument("key", "The key.")
  command:flag("-e --escaped", "KEY is written as gorge prints keys: \\xNN stands for a byte.")
  command:epilog [[
Examples:
  gorge explain my-app user:101
  gorge explain my-app user:101 --json

Exit status: 0; 1 when L1 has no value for the key that a worker would take; 3 when it cannot attach.]]
end

local function version_text(number)
  return number and ("%.0f"):format(number) or nil
end

local function escaped(tags)
  local list = {}
  for i, tag in ipairs(tags) do
    list[i] = { name = format.escape(tag.name), generation = tag.generation, l1 = tag.same and "same" or "changed" }
  end
  return list
end

local function tag_text(tags)
  local list = {}
  for i, tag in ipairs(tags) do
    list[i] = tag.l1 == "same" and tag.name or tag.name .. " (changed)"
  end
  return #list > 0 and table.concat(list, ", ") or "none"
end

local function fill_text(flight)
  if not flight then
    return "none"
  end
  return ("%s, %d workers wait, %s left of its lease"):format(flight.state, flight.waiters, format.time(flight.deadline))
end

local function tell(told)
  local l1, freshness = told.l1, told.freshness
  local rows = { { "key", told.key }, { "namespace", told.namespace }, { "reason", told.reason }, { "L1", l1.state } }
  if l1.size then
    rows[#rows + 1] = { "  ttl", l1.past and ("ended %s ago"):format(format.time(l1.past)) or format.time(l1.ttl) }
    rows[#rows + 1] = { "  size", format.bytes(l1.size) }
    rows[#rows + 1] = { "  version", l1.version or "none: not from Redis" }
    rows[#rows + 1] = { "  tags", tag_text(told.tags) }
  end
  rows[#rows + 1] = { "fill", fill_text(told.flight) }
  rows[#rows + 1] = { "L1 may be read", freshness.open and "yes" or "no" }
  output.say(format.table(rows))
end

function _M.run(args)
  local key = peek.bytes_of(args.key, args.escaped, 8192)
  local seen = zones.attach(args)
  local ns = zones.namespace(seen, args.namespace)
  local host = seen:explain(ns.number, key)
  local found = host.l1.state == "good" or host.l1.state == "due"
  local sentence = reason.l1(host.l1, host.tags)
  if not found and host.flight then
    sentence = sentence .. "; " .. reason.flight(host.flight)
  end
  host.l1.due, host.l1.version = nil, version_text(host.l1.version)
  local told = {
    key = format.escape(key), namespace = format.escape(ns.name), zone = format.escape(seen.zone), reason = sentence,
    l1 = host.l1, flight = host.flight, freshness = host.freshness, tags = escaped(host.tags),
  }
  if not ns.redis then
    told.freshness.contact, told.freshness.lag = nil, nil
  end
  if args.json then
    if told.l1.tags then
      for i, tag in ipairs(told.l1.tags) do
        told.l1.tags[i] = format.escape(tag)
      end
      told.l1.tags = output.array(told.l1.tags)
    end
    told.tags = output.array(told.tags)
    output.json(told)
  else
    tell(told)
  end
  return found and output.OK or output.NOTHING
end

return _M
