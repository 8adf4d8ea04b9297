-- SPDX-License-Identifier: MIT
--- A node for specs: an nginx with a cache, whose workers run Lua code that a spec posts.
---
---     local a = node.start { options = { namespace = "x", redis = redis.url } }
---     local value, err, source = a:run([[return cache:fetch(..., 60, load)]], "key")
---     local worker = a:worker(1); worker:run "…"      -- always the same worker
---     local batch = a:start(100, "…"); batch:results() -- many at once
---
--- Posted code sees what spec/nginx/app.lua defines.
local cjson = require "cjson"
local helper = require "spec.helper"

local _M = {}

---@class gorge.spec.Node
---@field nginx gorge.spec.Nginx
---@field namespace string
local Node = {}
Node.__index = Node

local HTTP = [[
  lua_shared_dict counts 2m;
  lua_socket_log_errors off; # what nginx says of a Redis that is away
  {{http}}
  client_body_buffer_size 256k;
  {{phase}}_by_lua_block { require("spec.nginx.app").start({{options}}) {{init}} }
]]

local SERVER = [[
  location = /run { content_by_lua_block { require("spec.nginx.app").serve() } }
  {{server}}
]]

--- Lua text of a value made of strings, numbers, booleans and tables.
---@param value any
---@return string
function _M.literal(value)
  if type(value) == "table" then
    local parts = {}
    for key, item in pairs(value) do
      parts[#parts + 1] = ("[%s] = %s"):format(_M.literal(key), _M.literal(item))
    end
    return "{ " .. table.concat(parts, ", ") .. " }"
  elseif type(value) == "string" then
    return ("%q"):format(value)
  end
  return tostring(value)
end

local function fill(text, values)
  return (text:gsub("{{([%w_]+)}}", function(name) return values[name] end))
end

--- nginx options of a node: for helper.nginx and nginx:configure.
---@param opts table
---@return table
function _M.nginx_options(opts)
  local values = {
    http = opts.http or "", server = opts.server or "", init = opts.init or "", phase = opts.phase or "init",
    options = _M.literal(opts.options),
  }
  return {
    http = fill(HTTP, values),
    server = fill(SERVER, values),
    main = opts.main,
    workers = opts.workers,
    log_level = opts.log_level,
    user = opts.user,
    module = opts.module,
    wait = opts.wait,
    env = opts.env,
    lua_path = helper.paths.lua_path .. ";" .. helper.paths.root .. "/?.lua",
  }
end

local function copy(list)
  local out = {}
  for name, value in pairs(list or {}) do
    out[name] = value
  end
  return out
end

--- Options: `options` for gorge.new; `http`, `server` and `main` as for helper.nginx; `init`: Lua code after gorge.new;
--- `phase`: "init_worker" calls gorge.new there.
--- Without a namespace, one that is used nowhere else.
---@param opts table
---@return gorge.spec.Node
function _M.start(opts)
  opts = copy(opts)
  opts.options = copy(opts.options)
  opts.options.namespace = opts.options.namespace or helper.unique_name "node"
  return setmetatable({ opts = opts, namespace = opts.options.namespace, nginx = helper.nginx(_M.nginx_options(opts)) }, Node)
end

--- Two nodes that share a Redis and hear one another; `link = false`: do not wait for that.
---@param redis gorge.spec.Redis
---@param opts? table as for start
---@return gorge.spec.Node a
---@return gorge.spec.Node b
function _M.pair(redis, opts)
  opts = copy(opts)
  opts.options = copy(opts.options)
  opts.options.namespace = opts.options.namespace or helper.unique_name "pair"
  opts.options.redis = opts.options.redis or redis.url
  local a, b = _M.start(opts), _M.start(opts)
  if opts.link ~= false then
    _M.wait_linked { a, b }
  end
  return a, b
end

--- The option `redis` of a node that a busy machine does not make give up on a Redis which is there.
---@param redis gorge.spec.Redis|gorge.spec.Relay
---@return table
function _M.patient(redis)
  return { host = "127.0.0.1", port = redis.port, timeout = 10, connect_timeout = 10 }
end

local function request(code, ...)
  local args = select("#", ...) > 0 and cjson.encode { ... } or nil
  return { uri = "/run", method = "POST", body = code, headers = { Args = args } }
end

-- Of what was answered; when nothing was, what nginx has logged says why.
local function results(response, nginx)
  if response.status ~= 200 then
    error(("status %s: %s\n%s"):format(response.status, response.err or response.body, nginx:error_log():sub(-2000)), 3)
  end
  local reply = cjson.decode(response.body)
  for i = 1, reply.n do
    if reply.values[i] == cjson.null then
      reply.values[i] = nil
    end
  end
  return reply.values, reply.n
end

local function unpack_results(response, nginx)
  local values, n = results(response, nginx)
  return unpack(values, 1, n)
end

--- Runs code in some worker.
---@param code string
---@param ... any strings, numbers, booleans
---@return any ...
function Node:run(code, ...)
  return unpack_results(self.nginx:request(request(code, ...)), self.nginx)
end

---@class gorge.spec.Worker
local Worker = {}
Worker.__index = Worker

--- One worker, over a connection that stays.
---@param id integer from 0
---@return gorge.spec.Worker
function Node:worker(id)
  local connection = self.nginx:connect_worker(id)
  return setmetatable({ connection = connection, pid = connection.worker_pid, nginx = self.nginx }, Worker)
end

function Worker:run(code, ...)
  return unpack_results(self.connection:request(request(code, ...)), self.nginx)
end

function Worker:close()
  self.connection:close()
end

---@class gorge.spec.NodeBatch
local Batch = {}
Batch.__index = Batch

--- Sends the same call many times, each on a connection of its own.
---@param n integer
---@param code string
---@return gorge.spec.NodeBatch
function Node:start(n, code, ...)
  local list = {}
  for i = 1, n do
    list[i] = request(code, ...)
  end
  return setmetatable({ batch = self.nginx:start_requests(list) }, Batch)
end

---@return integer how many answers have come
function Batch:done()
  return self.batch:done()
end

--- Waits for all answers: for each a table of the values returned, and `time` and `status`. Where there was none, `err`.
---@param timeout? number seconds (30)
---@return table[]
function Batch:results(timeout)
  local list = {}
  for i, response in ipairs(self.batch:finish(timeout)) do
    if response.status == 200 then
      list[i] = results(response)
    else
      list[i] = { err = response.err or response.body }
    end
    list[i].time, list[i].status = response.time, response.status
  end
  return list
end

function Batch:close()
  self.batch:close()
end

---@return table what cache:stats() returns
function Node:stats()
  return self:run "return cache:stats()"
end

--- What app.count has counted.
---@param name string
---@return integer
function Node:counted(name)
  return self:run("return counted(...)", name)
end

--- Waits until the count is reached.
---@param name string
---@param n? integer 1
function Node:wait_count(name, n)
  helper.wait_until(function() return self:counted(name) >= (n or 1) end, { message = "the count of '" .. name .. "' was not reached" })
end

--- Waits until each of the nodes hears what the others say, and has read the journal: before that it may hear, and then forgets its L1.
---@param nodes gorge.spec.Node[]
function _M.wait_linked(nodes)
  for _, n in ipairs(nodes) do
    n:run [[return cache:get "link"]] -- a process starts its threads with its first miss
  end
  local heard = {}
  for i, n in ipairs(nodes) do
    heard[i] = n:stats().messages
  end
  helper.wait_until(function()
    nodes[1]:run [[return cache:delete "link"]]
    for i, n in ipairs(nodes) do
      local stats = n:stats()
      if not stats.subscribed or stats.messages <= heard[i] then
        return false
      end
    end
    return true
  end, { interval = 0.02, message = "the nodes do not hear one another" })
end

--- Waits until this host listens to other nodes and Redis has confirmed that it missed nothing: before that its L1 may be forgotten once, and not answer.
---@return gorge.spec.Node itself
function Node:wait_subscribed()
  helper.wait_until(function()
    self:run [[return cache:get "link"]] -- a process starts its threads with its first miss
    return self:stats().subscribed
  end, { message = "the node does not listen" })
  return self
end

---@return integer[]
function Node:worker_pids()
  return self.nginx:worker_pids()
end

--- Whether nginx itself tells that a Redis which was killed has reset a connection, when it next read from it or wrote to it. It does so whatever
--- `lua_socket_log_errors` says, and it is nothing that went wrong.
---@param line string of the error log
---@return boolean
function _M.tells_of_lost_connection(line)
  return line:find "recv%(%) failed %(104: .-context: ngx%.timer" ~= nil or line:find "send%(%) failed %(%d+: .-context: ngx%.timer" ~= nil
end

--- Asserts that nothing went wrong that nginx or the cache logs.
function Node:assert_clean_log()
  local lines = {}
  for _, line in ipairs(self.nginx:log_lines()) do
    if not _M.tells_of_lost_connection(line) then
      lines[#lines + 1] = line
    end
  end
  if #lines > 0 then
    error("logged:\n" .. table.concat(lines, "\n"), 2)
  end
end

return _M
