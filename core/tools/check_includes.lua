-- SPDX-License-Identifier: MIT
-- Includes point downward only, and pure modules include nothing of the system that acts: check_includes.lua FILE...

-- What each module may include besides itself and the public header, all that lies under it.
local BELOW = {
  base = "",
  shm = "base",
  sync = "shm base",
  backlog = "sync shm base",
  l1 = "sync shm base",
  flight = "l1 sync shm base",
  resil = "base",
  proto = "base",
  tls = "base",
  io = "proto resil tls base",
  drive = "backlog flight l1 io tls proto resil sync shm base",
  engine = "backlog l1 flight drive io tls proto resil sync shm base",
  api = "engine backlog l1 flight drive io tls proto resil sync shm base",
}
-- Bytes and times in, results out: no socket, no clock, no thread.
local PURE = { base = true, resil = true, proto = true, io = true }
local ACTING = {
  "^sys/socket", "^sys/un", "^sys/epoll", "^sys/eventfd", "^sys/mman", "^sys/time", "^netinet/", "^netdb", "^arpa/",
  "^poll%.h", "^time%.h", "^pthread", "^threads%.h", "^unistd%.h", "^fcntl%.h", "^signal%.h", "^ev%.h", "^hiredis/net",
  "^hiredis/async", "^hiredis/adapters",
}
-- base/clock.c is the one place that reads clocks.
local EXEMPT = { ["core/base/clock.c"] = true }
-- Programs around the library see all of it.
local OUTSIDE = { test = true, bench = true, fuzz = true, fault = true, include = true }

local found = 0
local function report(file, line, message)
  found = found + 1
  io.stderr:write(("%s:%d: %s\n"):format(file, line, message))
end

local function exists(path)
  local file = io.open(path)
  return file and file:close()
end

local function check_own(file, line, module, target)
  if target == "ngx_gorge.h" and module == "nginx" then
    return
  end
  if target:find "^gorge_ffi[%l_]*%.h$" and module == "include" then
    return
  end
  if target == "include/gorge.h" or target == "gorge.h" then
    return
  end
  if target:find "%.%." or not exists("core/" .. target) then
    report(file, line, ('"%s" is not a path under core/'):format(target))
    return
  end
  local other = target:match "^([%w_]+)/"
  if other == module or OUTSIDE[module] then
    return
  end
  if not BELOW[module] then
    report(file, line, ("module %s has no place in the order of modules"):format(module))
  elseif not (" " .. BELOW[module] .. " "):find(" " .. tostring(other) .. " ", 1, true) then
    report(file, line, ("%s may not include %s: it may use %s"):format(module, target, BELOW[module]))
  end
end

for _, file in ipairs(arg) do
  local module = file:match "^core/([%w_]+)/"
  local number = 0
  for line in io.lines(file) do
    number = number + 1
    local own = line:match '^%s*#%s*include%s*"([^"]+)"'
    local system = line:match "^%s*#%s*include%s*<([^>]+)>"
    if own then
      check_own(file, number, module, own)
    elseif system and PURE[module] and not EXEMPT[file] then
      for _, pattern in ipairs(ACTING) do
        if system:find(pattern) then
          report(file, number, ("%s is pure: it may not include <%s>"):format(module, system))
        end
      end
    end
  end
end

os.exit(found == 0 and 0 or 1)
