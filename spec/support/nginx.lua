-- SPDX-License-Identifier: MIT
--- Real nginx instances of the test's own, each in a temporary folder, run in the foreground under their master's pid.
local process = require "spec.support.process"
local http = require "spec.support.http"
local net = require "spec.support.net"
local paths = require "spec.support.paths"

local _M = {}

---@class gorge.spec.Nginx
---@field port integer its first port on 127.0.0.1; `ports` has all
---@field unix string path of the unix socket of the generated configuration
---@field pid integer pid of the master
---@field prefix string its folder: conf/nginx.conf, error.log
local Nginx = {}
Nginx.__index = Nginx

-- Of the nginx under test, that of NGINX if it is set; one that ngx_lua is compiled into has none of it there.
local MODULES = os.getenv "NGINX_MODULES" or "/usr/lib/nginx/modules"

local TEMPLATE = [[
{{modules}}
{{user}}
worker_processes {{workers}};
error_log {{prefix}}/error.log {{log_level}};
env GORGE_LIBRARY;
{{main}}
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path {{prefix}}/tmp;
  proxy_temp_path {{prefix}}/tmp;
  fastcgi_temp_path {{prefix}}/tmp;
  uwsgi_temp_path {{prefix}}/tmp;
  scgi_temp_path {{prefix}}/tmp;
  keepalive_requests 1000000;
  lua_package_path "{{lua_path}};;";
  lua_package_cpath "{{lua_cpath}};;";
  {{http}}
  server {
    listen 127.0.0.1:{{port}} backlog=4096 {{reuseport}};
    listen unix:{{unix}} backlog=4096;
    location = /_worker { content_by_lua_block { ngx.print(ngx.worker.id(), " ", ngx.worker.pid()) } }
    {{server}}
  }
}
]]

-- Paths that hold for a process whatever its PATH: Debian keeps nginx out of a user's.
local function find_nginx()
  for _, path in ipairs { os.getenv "NGINX" or "", "/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/openresty/nginx/sbin/nginx" } do
    local file = path ~= "" and io.open(path)
    if file then
      file:close()
      return path
    end
  end
  return "nginx"
end

local function load_modules()
  local lines = {}
  for _, name in ipairs { "ndk_http_module.so", "ngx_http_lua_module.so" } do
    local file = io.open(MODULES .. "/" .. name)
    if file then
      file:close()
      lines[#lines + 1] = ("load_module %s/%s;"):format(MODULES, name)
    end
  end
  return table.concat(lines, "\n")
end

local function expand(text, values)
  return (text:gsub("{{([%w_]+)}}", function(name)
    local value = values[name]
    return value ~= nil and tostring(value) or nil
  end))
end

-- Directives for -g that a whole configuration leaves to its environment.
local function globals(conf, prefix, module)
  local parts = { module and ("load_module %s;"):format(module) or "", "daemon off;" }
  local function add(name, directive)
    if not ("\n" .. conf):match("\n%s*" .. name .. "%s") then
      parts[#parts + 1] = directive
    end
  end
  add("pid", ("pid %s/nginx.pid;"):format(prefix))
  add("error_log", ("error_log %s/error.log info;"):format(prefix))
  return table.concat(parts, " ")
end

--- Starts nginx and waits until it accepts connections.
---
--- Options are either `server` (content of one server block), `http` and `main` (added in their blocks of a generated
--- configuration), or `conf`, a whole nginx.conf. In all of them {{port}}, {{port2}}…, {{unix}}, {{prefix}}, {{root}}
--- (the checkout), {{build}}, {{lua_path}} and each name in `values` are replaced.
---@class gorge.spec.NginxOptions
---@field server? string
---@field http? string
---@field main? string
---@field conf? string
---@field values? table<string, string|number>
---@field workers? integer 2
---@field ports? integer how many free ports to choose (1)
---@field env? table<string, string|number|false> added to the environment of the master
---@field log_level? string "info"
---@field lua_path? string instead of the checkout's
---@field lua_cpath? string
---@field user? string of the workers, when run by root ("root")
---@field reuseport? boolean true: connections spread over the workers evenly
---@field wait? boolean false: return before it accepts connections
---@field module? string|false path of an ngx_gorge_module.so that it loads (that of GORGE_NGINX_MODULE)

---@param opts gorge.spec.NginxOptions
---@return gorge.spec.Nginx
function _M.start(opts)
  local self = setmetatable({ opts = opts, prefix = process.temp_dir(), ports = {} }, Nginx)
  for i = 1, opts.ports or 1 do
    self.ports[i] = net.free_port()
  end
  self.port = self.ports[1]
  self.unix = self.prefix .. "/nginx.sock"
  self.workers = opts.workers or 2
  self.module = opts.module
  if self.module == nil then
    self.module = paths.nginx_module
  end
  process.run { "mkdir", self.prefix .. "/conf", self.prefix .. "/logs", self.prefix .. "/tmp" }
  -- A configuration that says `load_module modules/…` or includes Debian's modules-enabled means the prefix.
  process.run { "ln", "-s", MODULES, self.prefix .. "/modules" }
  self:configure(opts)
  local started, problem = pcall(self.up, self, opts.wait)
  if not started then
    self:stop()
    error(problem, 0)
  end
  return self
end

--- Writes the configuration anew; takes effect with `reload`. Same options as start.
---@param opts table
function Nginx:configure(opts)
  local values = {
    prefix = self.prefix,
    unix = self.unix,
    root = paths.root,
    build = paths.build,
    lua_path = opts.lua_path or paths.lua_path,
    lua_cpath = opts.lua_cpath or paths.lua_cpath,
  }
  for i, port in ipairs(self.ports) do
    values[i == 1 and "port" or "port" .. i] = port
  end
  for name, value in pairs(opts.values or {}) do
    values[name] = value
  end
  local conf = opts.conf
  if not conf then
    local user = opts.user or "root"
    conf = expand(TEMPLATE, {
      modules = load_modules(),
      user = process.is_root() and "user " .. user .. ";" or "",
      workers = self.workers,
      log_level = opts.log_level or "info",
      main = opts.main or "",
      http = opts.http or "",
      server = opts.server or "",
      reuseport = opts.reuseport == false and "" or "reuseport",
    })
  end
  self.conf = expand(conf, values)
  process.write_file(self.prefix .. "/conf/nginx.conf", self.conf)
end

--- Starts it (again, after kill or quit).
---@param wait? boolean false: do not wait until it accepts connections
function Nginx:up(wait)
  assert(not self.process or not self.process:alive(), "nginx runs already")
  -- NGINX: to nginx itself a variable of that name lists sockets to inherit.
  local env = { GORGE_LIBRARY = paths.library, NGINX = false }
  for name, value in pairs(self.opts.env or {}) do
    env[name] = value
  end
  self.process = process.spawn {
    find_nginx(), "-p", self.prefix .. "/", "-c", self.prefix .. "/conf/nginx.conf",
    "-e", self.prefix .. "/error.log", "-g", globals(self.conf, self.prefix, self.module),
    env = env, stdout = self.prefix .. "/stderr", cwd = self.prefix, death_signal = process.SIGTERM,
  }
  self.pid = self.process.pid
  if wait == false then
    return self
  end
  process.wait_until(function()
    if not self.process:alive() then
      error("nginx ended: " .. self:error_log() .. (process.read_file(self.prefix .. "/stderr") or ""))
    end
    return net.is_open(self.port)
  end, { timeout = 20, message = function() return "nginx did not accept connections: " .. self:error_log() end })
  return self
end

--- `nginx -t` with the present configuration, whether or not it runs.
---@return boolean ok
---@return string output
function Nginx:test_configuration()
  local status, output = process.run {
    find_nginx(), "-t", "-p", self.prefix .. "/", "-c", self.prefix .. "/conf/nginx.conf",
    "-e", self.prefix .. "/test.log", "-g", globals(self.conf, self.prefix, self.module), env = { GORGE_LIBRARY = paths.library, NGINX = false },
  }
  return status == 0, output
end

--- One request; see http.lua for the fields.
---@param request table
---@return table response
function Nginx:request(request)
  request.port = request.port or not request.unix and self.port or nil
  return http.request(request)
end

---@param uri string
---@param headers? table
---@return table response
function Nginx:get(uri, headers)
  return self:request { uri = uri, headers = headers }
end

--- All requests at once. A string stands for a GET of that URI.
---@param requests (table|string)[]
---@param timeout? number seconds (30)
---@return table[] responses
function Nginx:many(requests, timeout)
  return http.many(self:address(requests), timeout)
end

--- Sends requests and returns at once: http.start.
---@param requests (table|string)[]
---@return gorge.spec.Batch
function Nginx:start_requests(requests)
  return http.start(self:address(requests))
end

--- Requests with this instance's port filled in.
---@param requests (table|string)[]
---@return table[]
function Nginx:address(requests)
  local list = {}
  for i, request in ipairs(requests) do
    request = type(request) == "string" and { uri = request } or request
    request.port = request.port or not request.unix and self.port or nil
    list[i] = request
  end
  return list
end

--- Workers that take requests: pids of the master's children that are not shutting down.
---@return integer[] sorted
function Nginx:worker_pids()
  local pids = {}
  for _, pid in ipairs(process.children(self.pid)) do
    local name = process.command_line(pid)
    if name:match "^nginx: worker process" and not name:match "shutting down" and process.exists(pid) then
      pids[#pids + 1] = pid
    end
  end
  table.sort(pids)
  return pids
end

--- A connection that stays with one worker. Needs the generated configuration (it asks /_worker).
---@param id integer ngx.worker.id()
---@return gorge.spec.Connection
function Nginx:connect_worker(id)
  for _ = 1, 200 do
    local connection = http.connect { port = self.port }
    local response = connection:get "/_worker"
    local worker_id, pid = (response.body or ""):match "^(%d+) (%d+)"
    if tonumber(worker_id) == id then
      connection.worker_pid = tonumber(pid)
      return connection
    end
    connection:close()
  end
  error("no connection reached worker " .. id, 2)
end

--- SIGHUP, and waits until a full set of new workers runs. Old ones may still be draining.
function Nginx:reload()
  -- A master listens before it minds signals; it does so when it has workers.
  process.wait_until(function() return #self:worker_pids() >= self.workers end, { message = "no workers" })
  local old = {}
  self.old_workers = old
  for _, pid in ipairs(process.children(self.pid)) do
    old[pid] = true
  end
  self.process:kill(process.SIGHUP)
  process.wait_until(function()
    local fresh = 0
    for _, pid in ipairs(self:worker_pids()) do
      fresh = fresh + (old[pid] and 0 or 1)
    end
    return fresh >= self.workers
  end, { timeout = 20, message = function() return "no new workers after a reload: " .. self:error_log() end })
end

--- Waits until the workers from before the last reload have gone.
---@param timeout? number seconds (20)
function Nginx:wait_drained(timeout)
  process.wait_until(function()
    for pid in pairs(self.old_workers or {}) do
      if process.exists(pid) then
        return false
      end
    end
    return true
  end, { timeout = timeout or 20, message = "old workers did not go" })
end

--- Everything logged so far.
---@return string
function Nginx:error_log()
  return process.read_file(self.prefix .. "/error.log") or ""
end

--- Waits until a line that matches was logged.
---@param pattern string Lua pattern
---@param timeout? number seconds (10)
---@return string match
function Nginx:wait_log(pattern, timeout)
  return process.wait_until(function()
    return self:error_log():match(pattern)
  end, { timeout = timeout, message = function() return "nothing like " .. pattern .. " in:\n" .. self:error_log() end })
end

--- Lines logged at one of the levels, ours or nginx's, for asserting that there are none.
---@param levels? table<string, boolean> default: alert, crit, emerg, error
---@return string[]
function Nginx:log_lines(levels)
  levels = levels or { alert = true, crit = true, emerg = true, error = true }
  local lines = {}
  for line in self:error_log():gmatch "[^\n]+" do
    if levels[line:match "^%S+ %S+ %[(%a+)%]" or ""] then
      lines[#lines + 1] = line
    end
  end
  return lines
end

--- Waits until a warning with the text has been logged.
---@param text string
---@return integer count of the warnings that have it by then
function Nginx:wait_warned(text)
  return process.wait_until(function()
    local count = 0
    for _, line in ipairs(self:log_lines { warn = true }) do
      count = count + (line:find(text, 1, true) and 1 or 0)
    end
    return count > 0 and count
  end, { message = "nothing was logged" })
end

--- SIGQUIT: answers what is in flight, then ends.
---@param timeout? number seconds (20)
---@return integer status
function Nginx:quit(timeout)
  return self.process:stop(process.SIGQUIT, timeout or 20)
end

--- Ends it (SIGTERM, SIGKILL when it does not go) and removes its folder. Idempotent.
function Nginx:stop()
  if not self.prefix then
    return
  end
  local pids = process.children(self.pid)
  self.process:stop(process.SIGTERM, 5)
  -- A master that had to be killed leaves its workers.
  for _, pid in ipairs(pids) do
    if process.command_line(pid):match "^nginx: " then
      process.kill(pid, process.SIGKILL)
    end
  end
  if os.getenv "GORGE_SPEC_KEEP" then
    io.stderr:write("kept ", self.prefix, "\n")
  else
    process.remove_dir(self.prefix)
  end
  self.prefix = nil
end

return _M
