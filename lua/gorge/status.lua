-- SPDX-License-Identifier: MIT
-- A content handler that shows caches: a live page for people, JSON and Prometheus text for programs. Answers only where the user put it, shows no key and no value.

local cjson = require "cjson"
local check = require "gorge.check"
local hot = require "gorge.hot"
local page = require "gorge.status_page"
local prometheus = require "gorge.prometheus"
local stats = require "gorge.stats"
local text = require "gorge.text"
local visitor = require "gorge.ffi.visitor"

local _M = {}

-- Hits are looked at for so long, so often, when hot keys are asked for.
local LOOKS, BETWEEN = 20, 0.01
local FADE = 0.7 -- what was seen before counts so much
local KEY_SHOWN = 200

local function check_title(value, name)
  if type(value) == "string" and #value >= 1 and #value <= 100 and text.is_utf8(value) then
    return value
  end
  return nil, check.mismatch(name, "1 to 100 bytes of UTF-8", value)
end

local function check_refresh(value, name)
  if type(value) == "number" and value >= 0.5 and value <= 3600 then
    return value
  end
  return nil, check.mismatch(name, "a number of seconds from 0.5 to 3600", value)
end

local function check_hot_keys(value, name)
  if type(value) == "number" and value >= 0 and value <= 100 and value % 1 == 0 then
    return value
  end
  return nil, check.mismatch(name, "an integer from 0 to 100", value)
end

local RULES = {
  hot_keys = { check = check_hot_keys, default = 0 },
  title = { check = check_title, default = "gorge" },
  refresh = { check = check_refresh, default = 2 },
}

local FORMATS = { html = true, json = true, prometheus = true }

---What the client wants: `format` in the query, else the Accept header.
---@return string|nil nil: there is no such format
local function wanted(format, accept)
  if format then
    return FORMATS[format] and format or nil
  elseif accept:find("text/html", 1, true) then
    return "html"
  elseif accept:find("application/json", 1, true) then
    return "json"
  elseif accept:find("text/plain", 1, true) or accept:find("openmetrics", 1, true) then
    return "prometheus"
  end
  return "html"
end

local tallies = setmetatable({}, { __mode = "k" }) -- by cache: what this worker has seen of hits

---Looks at the hits of all workers for a moment.
local function look_at_hits(caches)
  for _, cache in ipairs(caches) do
    local tally = tallies[cache] or { hot = hot.new(), cursor = visitor.uses_cursor() }
    tallies[cache] = tally
    tally.hot:fade(FADE)
    visitor.uses_of_cache(cache.engine.handle, tally.cursor) -- what was before is not of this moment
  end
  for _ = 1, LOOKS do
    ngx.sleep(BETWEEN)
    for _, cache in ipairs(caches) do
      if cache.engine then
        tallies[cache].hot:add(visitor.uses_of_cache(cache.engine.handle, tallies[cache].cursor))
      end
    end
  end
end

---@return table[]|nil nil while nothing is used
local function hottest(cache, most)
  local list, total = tallies[cache].hot:ranked({})
  local keys = {}
  for i = 1, math.min(most, #list) do
    local sample = list[i]
    keys[i] = {
      key = text.escape(sample.key, KEY_SHOWN), share = sample.weight / total, frequency = sample.frequency, size = sample.size,
      ttl = sample.ttl,
    }
  end
  return keys[1] and keys or nil
end

local function open_ones(caches)
  local list = {}
  for _, cache in ipairs(caches) do
    list[#list + 1] = cache.engine and cache or nil
  end
  return list
end

local function json(caches, hot_keys)
  local list = setmetatable({}, cjson.array_mt)
  if hot_keys > 0 then
    look_at_hits(open_ones(caches))
  end
  for _, cache in ipairs(caches) do
    if cache.engine then
      local info = stats.read(cache)
      local redis = cache.options.redis
      info.redis_address = redis and redis.display or nil
      info.has_breaker = cache.options.circuit_breaker ~= false
      info.has_origin = cache.options.origin ~= nil
      info.origin_max = info.has_origin and cache.options.origin.max_concurrency or nil
      info.freshness_bound = redis and cache.options.freshness_bound or nil
      info.hot_keys = hot_keys > 0 and tallies[cache] and hottest(cache, hot_keys) or nil
      list[#list + 1] = info
    end
  end
  ngx.update_time()
  return cjson.encode { version = require "gorge.version", time = ngx.now(), caches = list }
end

local HTML_ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

---The page may run its own script and style and talk to its own address, nothing else.
local function html(options)
  local file = assert(io.open("/dev/urandom", "rb"))
  local nonce = ngx.encode_base64(file:read(16))
  file:close()
  ngx.header["Content-Security-Policy"] = ("default-src 'none'; style-src 'nonce-%s'; script-src 'nonce-%s'; connect-src 'self'; "
    .. "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"):format(nonce, nonce)
  ngx.header["Referrer-Policy"] = "no-referrer"
  local values = {
    nonce = nonce,
    title = options.title:gsub('[&<>"]', HTML_ESCAPES),
    refresh = ("%d"):format(options.refresh * 1000),
  }
  return (page:gsub("{{(%l+)}}", values))
end

local TYPES = { html = "text/html; charset=utf-8", json = "application/json", prometheus = prometheus.CONTENT_TYPE }

---Answers the request. For `content_by_lua*`; who may ask is for the location to say (`allow`, `auth_basic`).
---Raises on misuse, naming the option. Yields only with `hot_keys`, for a fifth of a second.
---@param caches gorge.Cache<any>|gorge.Cache<any>[]
---@param opts { title?: string, refresh?: number, hot_keys?: integer }|nil title of the page, seconds between its looks (2), keys shown (0)
function _M.serve(caches, opts)
  local list = prometheus.list(caches, "status.serve", 2)
  if opts ~= nil and type(opts) ~= "table" then
    error("gorge: the options of status.serve must be a table, got " .. text.describe(opts), 2)
  end
  local options, problem = check.parse_table(opts or {}, "", RULES)
  if not options then
    error("gorge: status.serve: " .. problem, 2)
  end
  local method = ngx.req.get_method()
  local format = wanted(ngx.var.arg_format, ngx.var.http_accept or "")
  ngx.header["Cache-Control"] = "no-store"
  ngx.header["X-Content-Type-Options"] = "nosniff"
  if method ~= "GET" and method ~= "HEAD" then
    ngx.header["Allow"] = "GET, HEAD"
    ngx.status = 405
    return ngx.exit(405)
  elseif not format then
    ngx.status = 400
    ngx.header["Content-Type"] = "text/plain"
    return ngx.say("format is one of html, json, prometheus")
  end
  ngx.header["Vary"] = "Accept"
  ngx.header["Content-Type"] = TYPES[format]
  if format == "html" then
    return ngx.print(html(options))
  elseif format == "json" then
    return ngx.print(json(list, options.hot_keys))
  end
  return ngx.print(prometheus.render(list))
end

return _M
