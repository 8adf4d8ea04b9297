-- SPDX-License-Identifier: MIT
-- gorge doctor, nginx: asked by starting it with a configuration of ours, in a folder of its own, which ends it before it listens or forks.

local text = require "gorge.text"

local _M = {}

local PROGRAMS = { "/usr/sbin/nginx", "/usr/local/openresty/nginx/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx" }
local MODULES = { "ndk_http_module.so", "ngx_http_lua_module.so" }
local LEAST_NGX_LUA, BEST_TIMERS = 10021, 256

local function exists(path)
  local file = io.open(path, "rb")
  return file and file:close() or false
end

local function quoted(argument)
  return "'" .. argument:gsub("'", [['\'']]) .. "'"
end

---What a program prints, at most ten seconds long.
local function output_of(command)
  local pipe = io.popen("timeout 10 " .. command .. " 2>&1")
  local said = pipe and pipe:read "*a" or ""
  if pipe then
    pipe:close()
  end
  return said
end

local PROBE = [[
%s
daemon off;
master_process off;
pid %s/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/fastcgi; uwsgi_temp_path %s/uwsgi; scgi_temp_path %s/scgi;
  init_by_lua_block {
    local function try(name)
      local ok, problem = pcall(require, name)
      return ok and "yes" or tostring(problem):gsub("%%s+", " "):sub(1, 200)
    end
    io.stdout:write("ngx_lua=", ngx.config.ngx_lua_version, "\nluajit=", jit and jit.version or _VERSION,
      "\nopenresty=", (pcall(require, "table.nkeys")) and "yes" or "no", "\nresty_core=", try "resty.core", "\ngorge=", try "gorge", "\n")
    io.stdout:flush()
    os.exit(0)
  }
}
]]

---Asks nginx itself what is in it. Returns what it said by name, and all of it.
local function probe(program, modules)
  local folder = output_of("mktemp -d"):match "^(/%S+)"
  if not folder then
    return {}, "no folder for files of the check can be made"
  end
  local lines = {}
  for _, name in ipairs(MODULES) do
    if exists(modules .. "/" .. name) then
      lines[#lines + 1] = ('load_module "%s/%s";'):format(modules, name)
    end
  end
  local path = folder .. "/nginx.conf"
  local file = assert(io.open(path, "w"))
  file:write(PROBE:format(table.concat(lines, "\n"), folder, folder, folder, folder, folder, folder))
  file:close()
  local said = output_of(("%s -p %s/ -c %s -e stderr"):format(quoted(program), folder, path))
  os.execute("rm -rf " .. quoted(folder))
  local facts = {}
  for name, value in said:gmatch "([%l_]+)=([^\n]*)" do
    facts[name] = value
  end
  return facts, said
end

local function check_facts(findings, facts, said)
  local version = tonumber(facts.ngx_lua)
  if not version then
    local why = said:match "%[emerg%][^\n]*" or said:match "[^\n]+" or "it said nothing"
    findings:add("ngx_lua", "bad", "nginx has no Lua, or does not start with it: " .. text.printable(why, 200))
    return
  end
  local shown = ("%d.%d.%d"):format(version / 1000000, version / 1000 % 1000, version % 1000)
  local recent = version >= LEAST_NGX_LUA
  findings:add("ngx_lua", recent and "ok" or "bad", shown .. (recent and "" or ", 0.10.21 at least is needed"))
  findings:add("nginx's LuaJIT", facts.openresty == "yes" and "ok" or "warn",
    text.printable(facts.luajit or "unknown") .. (facts.openresty == "yes" and ", OpenResty's branch" or ", not OpenResty's branch"))
  local core = facts.resty_core == "yes"
  findings:add("lua-resty-core", core and "ok" or "bad", core and "loads" or text.printable(facts.resty_core or "does not load", 200))
  local ours = facts.gorge == "yes"
  findings:add("gorge in nginx", ours and "ok" or "note", ours and "loads on nginx's own paths"
    or "does not load on nginx's own paths (see lua_package_path, lua_package_cpath): " .. text.printable(facts.gorge or "", 200))
end

---What the configuration that nginx would start with says, where this user may read it.
local function check_configuration(findings, program)
  local said = output_of(quoted(program) .. " -T -q")
  local configuration = "\n" .. said:gsub("#[^\n]*", "")
  if not configuration:find "[%s;}]http%s*{" then
    findings:add("lua_max_running_timers", "note", "nginx's own configuration cannot be read: 256 unless it says otherwise")
    return
  end
  local timers = tonumber(configuration:match "[%s;{]lua_max_running_timers%s+(%d+)")
  findings:add("lua_max_running_timers", (timers or BEST_TIMERS) >= BEST_TIMERS and "ok" or "warn",
    timers and ("%d in nginx's own configuration"):format(timers) or "256, nginx's own configuration does not say otherwise")
end

---@param findings gorge.cli.Findings
---@param program string|nil
function _M.check(findings, program)
  for _, path in ipairs(program and {} or PROGRAMS) do
    program = program or (exists(path) and path or nil)
  end
  if not program or not exists(program) then
    findings:add("nginx", program and "bad" or "note", program and "there is no " .. text.printable(program, 200) or
      "not found where it usually is: --nginx FILE names it; plain LuaJIT programs do not need it")
    return
  end
  local said = output_of(quoted(program) .. " -V")
  local version = said:match "nginx version: (%S+)"
  findings:add("nginx", version and "ok" or "bad", version and ("%s (%s)"):format(text.printable(version), text.printable(program, 200))
    or text.printable(program, 200) .. " does not say its version")
  if version then
    check_facts(findings, probe(program, said:match "%-%-modules%-path=(%S+)" or "/usr/lib/nginx/modules"))
    check_configuration(findings, program)
  end
end

return _M
