-- SPDX-License-Identifier: MIT
--- A JSON API over the machine's own package database, cached by gorge.

local cjson = require "cjson"
local dpkg = require "dpkg"
local gorge = require "gorge"

local _M = {}

local TTL = 300 -- seconds

local cache, node

--- Called once in the nginx master, by init_by_lua: the memory that the workers
--- share is made here, before they are forked.
---@param options { node: string, redis: string|nil }
function _M.init(options)
  node = options.node
  cache = assert(gorge.new {
    namespace = "packages",
    redis = options.redis, -- nil: shared memory only, no server needed
    negative_cache_ttl = 30,
  })
end

-- Loaders ---------------------------------------------------------------------
-- A loader is what the cache runs when no layer has the answer. It gets the key.
-- nil without an error means "there is no such thing", which is remembered too.

-- Reading the file takes milliseconds; other requests get their turn in between.
local function pause()
  ngx.sleep(0.001)
end

-- Counted outside the cache, so that what the cache says can be checked.
local function count_loader_run()
  return node .. "-" .. ngx.shared.demo:incr("loader_runs", 1, 0)
end

local function load_package(key)
  local run = count_loader_run()
  local found, err = dpkg.package(key:sub(#"package:" + 1), pause)
  if not found then
    return nil, err
  end
  found.loader_run = run
  -- The section is known only now, so the loader itself names the tag.
  return found, nil, found.section and { tags = { "section:" .. found.section } }
end

local function load_section(key)
  local run = count_loader_run()
  local list, err = dpkg.section(key:sub(#"section:" + 1), pause)
  if not list then
    return nil, err
  end
  list.loader_run = run
  return list, nil, { tags = { key } }
end

-- Handlers --------------------------------------------------------------------

local function send(status, body, source)
  body = cjson.encode(body) .. "\n"
  ngx.status = status
  ngx.header["Content-Length"] = #body
  ngx.header["X-Cache"] = source
  ngx.header["X-Worker"] = node .. ngx.worker.id()
  ngx.print(body)
end

local function answer(value, err, source)
  if err then
    return send(503, { error = err })
  elseif value == nil then
    return send(404, { error = "not found" }, source)
  end
  return send(200, value, source)
end

-- The cache has let go of it in this node in any case; an error says that other
-- nodes may be late because Redis could not be told.
local function forgotten(ok, err)
  return send(ok and 200 or 202, { forgotten = true, warning = err })
end

--- GET /package/NAME, DELETE /package/NAME
function _M.package()
  local key = "package:" .. ngx.var.name
  if ngx.req.get_method() == "DELETE" then
    return forgotten(cache:delete(key))
  end
  return answer(cache:fetch(key, TTL, load_package))
end

--- GET /section/NAME; DELETE /section/NAME forgets the list and every package in it
function _M.section()
  local key = "section:" .. ngx.var.name
  if ngx.req.get_method() == "DELETE" then
    return forgotten(cache:invalidate_tags(key))
  end
  return answer(cache:fetch(key, TTL, load_section))
end

--- GET /uncached/...: the same answers, each from a loader run of its own
function _M.uncached_package()
  local value, err = load_package("package:" .. ngx.var.name)
  return answer(value, err, "none")
end

function _M.uncached_section()
  local value, err = load_section("section:" .. ngx.var.name)
  return answer(value, err, "none")
end

--- GET /stats
function _M.stats()
  return send(200, {
    node = node,
    loader_runs = ngx.shared.demo:get("loader_runs") or 0,
    cache = cache:stats(),
  })
end

return _M
