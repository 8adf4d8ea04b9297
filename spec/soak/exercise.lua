-- SPDX-License-Identifier: MIT
--- What a request of a soak does: one random operation on a cache, whose values tell whose they are.
local KEYS, TAGS = 200, 10

local random = math.random

local function seal(key)
  local text = key .. ":" .. string.rep(string.char(random(97, 122)), random(10) == 1 and random(20000) or random(200))
  return text .. ":" .. ngx.md5(text)
end

local function check(key, value)
  if value == nil then
    return
  end
  local text, sum = value:match "^(.*):(%x+)$"
  if not text or sum ~= ngx.md5(text) or text:sub(1, #key + 1) ~= key .. ":" then
    error(("the value of %s is wrong: %s"):format(key, value:sub(1, 100)))
  end
end

local function tag_of(number)
  return "tag " .. number % TAGS
end

--- Raises what went wrong.
---@param cache gorge.Cache
---@return string what was done
return function(cache)
  local number, what = random(KEYS), random(100)
  local key = "key " .. number
  if what <= 80 then
    local value, err = cache:fetch(key, random() + 0.05, seal, tag_of(number))
    assert(not err, err)
    check(key, assert(value))
    return "fetch"
  elseif what <= 90 then
    assert(cache:set(key, seal(key), random() + 0.05, tag_of(number)))
    return "set"
  elseif what <= 97 then
    assert(cache:delete(key))
    return "delete"
  end
  assert(cache:invalidate_tags(tag_of(number)))
  return "tag"
end
