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

_M.lua_path = table.concat({
  _M.root .. "/lua/?.lua",
  _M.root .. "/lua/?/init.lua",
  _M.build .. "/lua/?.lua",
}, ";")

_M.lua_cpath = _M.root .. "/?.so"

return _M
