-- SPDX-License-Identifier: MIT
-- C structs as values: what a struct is made of, to the byte, and how its bytes move. Two programs may share the bytes of a struct only if every member
-- has the same name, place and form in both: that is what the id of a layout stands for.
--
-- LuaJIT tells of its types by ffi.typeinfo, in the encoding of its own tables (lj_ctype.h): the upper four bits of `info` say what a type is, the lower
-- sixteen name another type that it is made of.
--
-- The bytes may come from Redis, where others can write: any bytes make a struct that is safe to read. That is why a NaN comes back as the plain NaN.

local bit = require "bit"
local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local text = require "gorge.text"

local band, rshift = bit.band, bit.rshift
local cast, copy, new = ffi.cast, ffi.copy, ffi.new
local ffi_string = ffi.string
local format = string.format
local tonumber = tonumber
local type = type
local typeof = ffi.typeof

local _M = {}

local NUM, STRUCT, PTR, ARRAY, ENUM, FUNC, TYPEDEF, ATTRIB, FIELD, BITFIELD = 0, 1, 2, 3, 5, 6, 7, 8, 9, 10
local BOOL, FLOAT, UNSIGNED, VARIABLE = 0x08000000, 0x04000000, 0x00800000, 0x00100000
local UNION, COMPLEX, REFERENCE = 0x00800000, 0x04000000, 0x00800000
local QUALIFIED, ALIGNED, SUBTYPE = 1, 2, 3 -- kinds of attributes
local MAX_DEPTH = 32
local MAX_BYTES = 1048576
local MAX_MEMBERS = 4096

---Bytes of the id in front of a struct's own.
local ID_SIZE = 8

---The attribute that stands around a type.
---@return integer|nil
local function attribute(t)
  return rshift(t.info, 28) == ATTRIB and band(rshift(t.info, 16), 255) or nil
end

---@return table info of the type itself: without other names, qualifiers and alignment, of which members' places tell
---@return integer what
---@return boolean qualified
local function info_of(id)
  local t, qualified = ffi.typeinfo(id), false
  local around = attribute(t)
  while around == QUALIFIED or around == ALIGNED or rshift(t.info, 28) == TYPEDEF do
    qualified = qualified or around == QUALIFIED
    t = ffi.typeinfo(band(t.info, 0xffff))
    around = attribute(t)
  end
  return t, rshift(t.info, 28), qualified
end

local describe_type

---A walk over a type: what is counted and found on the way.
---@class gorge.LayoutWalk
---@field members integer
---@field unions integer around the type at hand
---@field doubles integer[] their places, in bytes
---@field floats integer[]

---@param walk gorge.LayoutWalk
---@return string|nil text of all members
---@return string|nil problem
local function describe_members(walk, t, path, depth, offset)
  local out = ""
  local sibling = t.sib
  while sibling and sibling ~= 0 do
    local member = ffi.typeinfo(sibling)
    local what = rshift(member.info, 28)
    walk.members = walk.members + 1
    if walk.members > MAX_MEMBERS then
      return nil, path .. ": has more than " .. MAX_MEMBERS .. " members"
    end
    if what == FIELD or attribute(member) == SUBTYPE then
      local inner = member.name and text.member(path, member.name) or path
      local form, problem = describe_type(walk, band(member.info, 0xffff), inner, depth + 1, offset + member.size)
      if not form then
        return nil, problem
      end
      out = out .. format("%s@%d:%s;", member.name or "", member.size, form)
    elseif what == BITFIELD then
      local info = member.info
      out = out .. format("%s@%d:%s%d+%d/%d;", member.name or "", member.size, band(info, UNSIGNED) ~= 0 and "u" or "i",
        band(info, 127), band(rshift(info, 8), 127), band(rshift(info, 16), 127))
    end
    sibling = member.sib
  end
  return out
end

local function describe_number(walk, info, size, path, offset)
  if band(info, FLOAT) == 0 then
    return (band(info, BOOL) ~= 0 and "b" or band(info, UNSIGNED) ~= 0 and "u" or "i") .. size
  elseif walk.unions > 0 then
    return nil, path .. ": is a floating-point number in a union; the bytes of the other members might be none"
  end
  local places = size == 8 and walk.doubles or size == 4 and walk.floats or {}
  places[#places + 1] = offset
  return "f" .. size
end

---What was found in the first element of an array is in all others as well.
local function repeat_places(places, known, count, stride)
  local last = #places
  for i = 1, count - 1 do
    for j = known + 1, last do
      places[#places + 1] = places[j] + i * stride
    end
  end
end

local function describe_array(walk, info, size, path, depth, offset)
  local doubles, floats = #walk.doubles, #walk.floats
  local id = band(info, 0xffff)
  local element, problem = describe_type(walk, id, path, depth + 1, offset)
  if not element then
    return nil, problem
  end
  local stride = info_of(id).size
  local count = stride > 0 and size / stride or 0
  repeat_places(walk.doubles, doubles, count, stride)
  repeat_places(walk.floats, floats, count, stride)
  return (band(info, COMPLEX) ~= 0 and "c" or "a") .. size .. "[" .. element .. "]"
end

---@param walk gorge.LayoutWalk
---@param id integer of a C type
---@param path string of the member
---@param depth integer
---@param offset integer of the member
---@return string|nil form the type in one form; names of types do not count
---@return string|nil problem
function describe_type(walk, id, path, depth, offset)
  local t, what = info_of(id)
  local info, size = t.info, t.size
  if depth > MAX_DEPTH then
    return nil, path .. ": is nested more than " .. MAX_DEPTH .. " levels deep"
  elseif what == NUM then
    return describe_number(walk, info, size, path, offset)
  elseif what == ENUM then
    return describe_type(walk, band(info, 0xffff), path, depth + 1, offset)
  elseif what == PTR or what == FUNC then
    return nil, path .. ": is a " .. (what == FUNC and "function" or band(info, REFERENCE) ~= 0 and "reference" or "pointer")
      .. "; it would mean nothing in another process or at another time"
  elseif (what == ARRAY or what == STRUCT) and band(info, VARIABLE) ~= 0 or (what == ARRAY and not size) then
    return nil, path .. ": has no fixed size; how long an array of variable length is cannot be told from a struct's bytes"
  elseif (what == ARRAY or what == STRUCT) and size and size > MAX_BYTES then
    return nil, path .. ": must have 1 to " .. MAX_BYTES .. " bytes, has " .. size
  elseif what == STRUCT and not size then
    return nil, path .. ": is not declared in full"
  elseif what == ARRAY then
    return describe_array(walk, info, size, path, depth, offset)
  elseif what == STRUCT then
    local union = band(info, UNION) ~= 0 and 1 or 0
    walk.unions = walk.unions + union
    local members, problem = describe_members(walk, t, path, depth, offset)
    walk.unions = walk.unions - union
    return members and (union == 1 and "|" or "") .. size .. "{" .. members .. "}", problem
  end
  return nil, path .. ": is a type without a size"
end

---A C struct whose bytes can be stored.
---@class gorge.Layout
---@field name string of the type, for people
---@field size integer bytes
---@field text string
---@field id string 8 bytes
local Layout = {}
Layout.__index = Layout

---@param value any
---@return boolean
function _M.is_ctype(value)
  return type(value) == "cdata" and tostring(typeof(value)) == tostring(value)
end

---@param ctype ffi.ctype* as ffi.typeof returns it
---@return gorge.Layout|nil
---@return string|nil problem
function _M.new(ctype)
  local name = tostring(ctype):match "^ctype<(.*)>$"
  local type_id = tonumber(ctype)
  local t, what, qualified = info_of(type_id)
  if what ~= STRUCT then
    return nil, name .. ": is no struct"
  elseif qualified then
    return nil, name .. ": is qualified; name the struct without const or volatile"
  end
  local walk = { members = 0, unions = 0, doubles = {}, floats = {} }
  local form, problem = describe_type(walk, type_id, "", 1, 0)
  if not form then
    return nil, name .. problem
  elseif t.size < 1 then
    return nil, name .. ": must have 1 to " .. MAX_BYTES .. " bytes, has 0"
  end
  local described = format("%s;%d;%s", ffi.abi "le" and "little" or "big", ffi.alignof(ctype), form)
  local hash, bytes = C.gorge_checksum(described, #described, 0), {}
  for i = 1, ID_SIZE do
    bytes[i] = string.char(tonumber(band(rshift(hash, 64 - 8 * i), 255ULL)))
  end
  local id = table.concat(bytes)
  local places = new("uint32_t[?]", #walk.doubles + #walk.floats + 1, walk.doubles)
  for i, place in ipairs(walk.floats) do
    places[#walk.doubles + i - 1] = place
  end
  return setmetatable({
    name = name, size = t.size, text = described, id = id,
    type_id = type_id, ctype = typeof(ctype), id_word = new("uint64_t[1]", cast("const uint64_t *", id)[0]),
    places = places, doubles = #walk.doubles, floats = #walk.floats,
  }, Layout)
end

---Whether a value is this struct itself; not a pointer or a reference, behind which memory may go away.
---@param value any
---@return string|nil problem
function Layout:check(value)
  if type(value) ~= "cdata" then
    return "expected " .. self.name .. ", got " .. type(value)
  elseif tonumber(typeof(value)) ~= self.type_id then
    return "expected " .. self.name .. ", got " .. tostring(typeof(value)):match "^ctype<(.*)>$"
  end
end

---Id and bytes of a checked value.
---@param value ffi.cdata*
---@return string
function Layout:bytes(value)
  return self.id .. ffi_string(cast("const char *", value), self.size)
end

---The struct whose id and bytes stand in memory.
---@param memory ffi.cdata* an array of bytes
---@param len integer
---@return ffi.cdata*|nil nil: they are of another layout
function Layout:read(memory, len)
  if len ~= self.size + ID_SIZE or cast("const uint64_t *", memory)[0] ~= self.id_word[0] then
    return nil
  end
  local value = new(self.ctype)
  copy(value, memory + ID_SIZE, self.size)
  if self.doubles + self.floats > 0 then
    C.gorge_settle_floats(value, self.places, self.doubles, self.floats)
  end
  return value
end

---The same from a string.
---@param bytes string
---@return ffi.cdata*|nil
function Layout:parse(bytes)
  return self:read(cast("const char *", bytes), #bytes)
end

---@param value ffi.cdata*
---@return ffi.cdata*
function Layout:clone(value)
  local other = new(self.ctype)
  copy(other, value, self.size)
  return other
end

return _M
