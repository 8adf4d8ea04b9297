-- SPDX-License-Identifier: MIT
--- Where the checkout and what was built lie. GORGE_BUILD names another build folder than build/.
local process = require "spec.support.process"

local _M = {}

local status, output = process.run { "pwd", "-P" }
assert(status == 0)

_M.root = output:gsub("\n$", "")

local build = os.getenv "GORGE_BUILD" or "build"
_M.build = build:sub(1, 1) == "/" and build or _M.root .. "/" .. build

--- What GORGE_LIBRARY is set to for processes that specs start.
_M.library = os.getenv "GORGE_LIBRARY" or _M.build .. "/libgorge.so"

--- An ngx_gorge_module.so that each nginx loads.
local module = os.getenv "GORGE_NGINX_MODULE" or ""
_M.nginx_module = module ~= "" and (module:sub(1, 1) == "/" and module or _M.root .. "/" .. module) or nil

_M.lua_path = table.concat({
  _M.root .. "/lua/?.lua",
  _M.root .. "/lua/?/init.lua",
  _M.build .. "/lua/?.lua",
}, ";")

_M.lua_cpath = _M.root .. "/?.so"

return _M
