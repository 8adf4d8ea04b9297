-- SPDX-License-Identifier: MIT
-- The memory order of every atomic of the library is written down with its partner: check_atomics.lua FILE...
--
--  - An ordered one (acquire, release, acq_rel, seq_cst, any fence) has a comment that says "partner" or "pairs with". It
--    stands on the lines of the statement; or is the next comment above it, at most NEAR lines away, with no other ordered
--    one in between; or right above the function, if that has no other ordered one. One that says "both" or "here and
--    below" goes for all that follow it in the function.
--  - A relaxed one has a comment that says why that is enough (one of REASONS): in its function, right above it, or
--    above the functions it stands together with; or one at the file's head with "All accesses are relaxed" or "All
--    accesses in here are relaxed".
--  - Orders are written out where they are used, not in macros, and there are no atomics of other kinds
--    (__sync_*, _Atomic).
--
-- Programs around the library (tests, benchmarks) are not looked at.

local NEAR = 3
local REASONS = { "relaxed", "hint", "under the lock", "ordered by", "for people" }
local ORDERED = { ACQUIRE = true, RELEASE = true, ACQ_REL = true, SEQ_CST = true, CONSUME = true }
local OUTSIDE = { test = true, bench = true, fuzz = true, fault = true, include = true }

local found = 0
local function report(file, line, message)
  found = found + 1
  io.stderr:write(("%s:%d: %s\n"):format(file, line, message))
end

local function blank(text)
  return (text:gsub("[^\n]", " "))
end

-- The text with comments, strings and directives blanked, the comments by their offsets, and where a macro has an atomic.
local function split(text)
  local comments, out, at, macro = {}, {}, 1, nil
  local function take(last, comment)
    local piece = text:sub(at, last)
    if comment then
      comments[#comments + 1] = { from = at, to = last, text = piece:gsub("\n%s*%*", " "):gsub("%s+", " ") }
    end
    out[#out + 1] = blank(piece)
    at = last + 1
  end
  while at <= #text do
    local next_at = text:find("[/\"'#]", at)
    out[#out + 1] = text:sub(at, (next_at or #text + 1) - 1)
    if not next_at then
      break
    end
    at = next_at
    local two, char = text:sub(at, at + 1), text:sub(at, at)
    if two == "/*" then
      take(select(2, text:find("*/", at + 2, true)) or #text, true)
    elseif two == "//" then
      take((text:find("\n", at, true) or #text + 1) - 1, true)
    elseif char == '"' or char == "'" then
      local last = at + 1
      while last < #text and text:sub(last, last) ~= char do
        last = last + (text:sub(last, last) == "\\" and 2 or 1)
      end
      take(last)
    elseif char == "#" then
      local last = text:find("[^\\]\n", at) or #text
      last = math.min(last, (text:find("/[*/]", at) or #text + 1) - 1)
      macro = macro or text:sub(at, last):find("__atomic_", 1, true) and at
      take(last)
    else
      out[#out + 1] = char
      at = at + 1
    end
  end
  return table.concat(out), comments, macro
end

local function line_of(starts, offset)
  local low, high = 1, #starts
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if starts[middle] <= offset then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

-- What stands at the file's top level, one after the other: { from =, to = } in offsets.
local function units_of(code)
  local units, depth, from = {}, 0, nil
  for at, char in code:gmatch "()(%S)" do
    from = from or at
    if char == "{" or char == "(" then
      depth = depth + 1
    elseif char == "}" or char == ")" then
      depth = depth - 1
    end
    if depth == 0 and (char == "}" or char == ";") then
      units[#units + 1] = { from = from, to = at }
      from = nil
    end
  end
  return units, depth
end

local function says(comment, words)
  local text = comment.text:lower()
  for _, word in ipairs(words) do
    if text:find(word, 1, true) then
      return true
    end
  end
  return false
end

-- Every atomic of the code: where its call begins and its statement ends, and whether it orders.
local function atomics_of(file, code, starts)
  local atomics = {}
  for from, name, open in code:gmatch "()__atomic_([%w_]+)%s*()%(" do
    local call = code:match("^%b()", open)
    local known, ordered = name:find "fence" ~= nil, name:find "fence" ~= nil
    for order in (call or ""):gmatch "__ATOMIC_([%u_]+)" do
      known, ordered = true, ordered or ORDERED[order] or false
    end
    if not known then
      report(file, line_of(starts, from), "__atomic_" .. name .. ": its order is not written here")
    end
    atomics[#atomics + 1] = {
      from = from,
      to = code:find("[;{]", open + #(call or "")) or #code,
      name = name,
      ordered = ordered,
    }
  end
  return atomics
end

local File = {}
File.__index = File

local function parse(name)
  local handle = assert(io.open(name))
  local text = handle:read "*a"
  handle:close()
  local self = setmetatable({ name = name, starts = { 1 } }, File)
  for at in text:gmatch "\n()" do
    self.starts[#self.starts + 1] = at
  end
  local depth, macro
  self.code, self.comments, macro = split(text)
  self.units, depth = units_of(self.code)
  if macro then
    report(name, self:line(macro), "an atomic in a macro: its order and partner are to be seen where it is used")
  end
  if depth ~= 0 then
    report(name, #self.starts, "its brackets are not closed: not understood")
  end
  self.atomics = atomics_of(name, self.code, self.starts)
  self.all_relaxed = false
  for _, c in ipairs(self.comments) do
    c.first, c.last = self:line(c.from), self:line(c.to)
    c.trailing = self.code:sub(self.starts[c.first], c.from - 1):find "%S" ~= nil
    c.partner = says(c, { "partner", "pairs with", "pair with" })
    c.several = says(c, { "both", "here and below" })
    c.reason = says(c, REASONS)
    if not self.units[1] or c.from < self.units[1].from then
      self.all_relaxed = self.all_relaxed or says(c, { "all accesses in here are relaxed", "all accesses are relaxed" })
    end
  end
  return self
end

function File:line(offset)
  return line_of(self.starts, offset)
end

function File:unit_at(offset)
  for number, unit in ipairs(self.units) do
    if unit.from <= offset and offset <= unit.to then
      return unit, number
    end
  end
end

-- Ordered atomics that begin between two offsets.
function File:ordered_between(from, to)
  local n = 0
  for _, a in ipairs(self.atomics) do
    n = n + ((a.ordered and a.from > from and a.from < to) and 1 or 0)
  end
  return n
end

-- The comment right above a unit, or NIL. `group`: or above the one it follows without a blank line.
function File:head(number, group)
  local first = self:line(self.units[number].from)
  for _, c in ipairs(self.comments) do
    if c.last == first - 1 and not c.trailing then
      return c
    end
  end
  if group and number > 1 and self:line(self.units[number - 1].to) >= first - 1 then
    return self:head(number - 1, group)
  end
end

function File:has_partner(atomic)
  local first, last = self:line(atomic.from), self:line(atomic.to)
  local unit, number = self:unit_at(atomic.from)
  local above
  for _, c in ipairs(self.comments) do
    local before = unit and not c.trailing and c.from > unit.from and c.last < first
    if c.partner and (c.first >= first and c.first <= last or before and c.several) then
      return true
    end
    above = before and c or above
  end
  if above and above.partner and first - above.last <= NEAR and self:ordered_between(above.to, atomic.from) == 0 then
    return true
  end
  local head = unit and self:head(number)
  return head ~= nil and head.partner and (head.several or self:ordered_between(unit.from, unit.to) == 1)
end

function File:has_reason(atomic)
  local unit, number = self:unit_at(atomic.from)
  if self.all_relaxed or not unit then
    return self.all_relaxed
  end
  for _, c in ipairs(self.comments) do
    if c.reason and c.from > unit.from and c.first <= self:line(unit.to) then
      return true
    end
  end
  local head = self:head(number, true)
  return head ~= nil and head.reason
end

local function check(name)
  local file = parse(name)
  for _, a in ipairs(file.atomics) do
    if a.ordered and not file:has_partner(a) then
      report(name, file:line(a.from), ("__atomic_%s: no comment near it names its partner"):format(a.name))
    elseif not a.ordered and not file:has_reason(a) then
      report(name, file:line(a.from), ("__atomic_%s: no comment says why relaxed is enough"):format(a.name))
    end
  end
  for _, other in ipairs { "__sync_[%w_]+", "_Atomic", "atomic_[%w_]+_explicit" } do
    for from, word in file.code:gmatch("%f[%w_]()(" .. other .. ")") do
      report(name, file:line(from), word .. ": the library uses the __atomic builtins, with their orders written out")
    end
  end
end

for _, name in ipairs(arg) do
  if not OUTSIDE[name:match "^core/([%w_]+)/" or ""] then
    check(name)
  end
end

os.exit(found == 0 and 0 or 1)
