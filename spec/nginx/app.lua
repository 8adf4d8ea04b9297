-- SPDX-License-Identifier: MIT
--- What runs inside the nginx instances of spec/nginx/node.lua: a cache, and a handler that runs the Lua code a spec posts.
--- Posted code sees everything in this module as its globals.
local cjson = require "cjson"

local counts = ngx.shared.counts
local chunks = {}

local _M = setmetatable({ counts = counts }, { __index = _G })

---@param options table for gorge.new
function _M.start(options)
  _M.gorge = require "gorge"
  _M.cache = assert(_M.gorge.new(options))
end

--- Counts one up for all workers of this nginx.
---@param name string
function _M.count(name)
  return counts:incr(name, 1, 0)
end

---@param name string
---@return number
function _M.counted(name)
  return counts:get(name) or 0
end

---@param path string
---@return string|nil
function _M.read_file(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local text = file:read "*a"
  file:close()
  return text
end

---@param path string
---@param text string
function _M.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- Waits until a spec opens the gate.
---@param name string
function _M.gate(name)
  _M.count("at " .. name)
  while not counts:get("open " .. name) do
    ngx.sleep(0.002)
  end
end

---@param name string
function _M.open(name)
  counts:set("open " .. name, true)
end

---@return number seconds, the same clock in all processes
function _M.now()
  ngx.update_time()
  return ngx.now()
end

--- By the clock that the cache goes by, the kernel's coarse one: where a processor of a virtual machine stands still, it lies behind by more than a tick.
---@return number seconds
function _M.clock()
  ngx.update_time()
  return _M.cache.host.now() / 1000
end

--- A loader that counts its runs and leaves its process and the time of its end.
---@param key string
function _M.load(key)
  _M.count "loads"
  counts:set("loader", ngx.worker.pid())
  counts:set("loaded", _M.now())
  return "value of " .. key
end

--- What a fetch returns: the value, or its error.
---@param key string
function _M.fetch_or_error(key)
  local value, err = _M.cache:fetch(key, 60, _M.load)
  return value or err
end

--- The same as load, but only once the gate "loader" is open.
---@param key string
function _M.load_at_gate(key)
  counts:set("loader", ngx.worker.pid())
  _M.gate "loader"
  return _M.load(key)
end

--- A loader that hangs until the gate "hang" is opened, the first time that a worker of this nginx runs it.
---@param key string
function _M.hang_once(key)
  if counts:add("hangs", ngx.worker.pid()) then
    _M.gate "hang"
    return "late value"
  end
  return _M.load(key)
end

--- A loader that fails once the gate is open.
function _M.fail_at_gate()
  _M.gate "loader"
  _M.count "loads"
  counts:set("loaded", _M.now())
  return nil, "the database is down"
end

--- Runs a function in this worker after the request; `results` returns what it returned.
---@param name string
---@param fn function
function _M.background(name, fn)
  assert(ngx.timer.at(0, function()
    counts:set("result " .. name, cjson.encode { fn() })
  end))
end

local function reply(...)
  local out = { ... }
  for i = 1, select("#", ...) do
    if out[i] == nil then
      out[i] = cjson.null
    end
  end
  return cjson.encode { n = select("#", ...), values = out }
end

--- Runs code with arguments; returns its results as JSON.
---@param code string
---@param args string|nil JSON array
---@return string
function _M.call(code, args)
  local chunk = chunks[code]
  if not chunk then
    chunk = setfenv(assert(loadstring(code, "=posted")), _M)
    chunks[code] = chunk
  end
  local list = args and cjson.decode(args) or {}
  return reply(chunk(unpack(list)))
end

--- Content handler: the body is the code, the header Args its arguments.
function _M.serve()
  ngx.req.read_body()
  ngx.print(_M.call(ngx.req.get_body_data(), ngx.var.http_args))
end

return _M
