-- SPDX-License-Identifier: MIT
-- Finds libgorge, loads it, and refuses one that does not match the declarations it was loaded with.

local ffi = require "ffi"
local declared, problem = pcall(require, "gorge.ffi.cdef")
if not declared then
  local missing = problem:find("module 'gorge.ffi.cdef' not found", 1, true)
  error(missing and "gorge: the module gorge.ffi.cdef, which the build makes, is not on package.path; in a checkout it is in build/lua"
    or problem, 0)
end

local ABI_VERSION = tonumber(ffi.C.GORGE_ABI_VERSION)

-- gorge_abi_sizeof's numbering.
local STRUCTS = {
  "struct gorge_words", "struct gorge_read", "struct gorge_l0_record", "struct gorge_config", "struct gorge_fetch",
  "struct gorge_store", "struct gorge_stats", "struct gorge_view", "struct gorge_found", "struct gorge_namespace",
  "struct gorge_hot", "struct gorge_event", "struct gorge_host_look", "struct gorge_l2_look", "struct gorge_node_breaker",
}

---Where to look: the environment names a file; else the C module path, as for `require "gorge.libgorge"`; else the system's loader.
local function candidates()
  local list = {}
  local named = os.getenv "GORGE_LIBRARY"
  if named and named ~= "" then
    return { named }
  end
  for template in package.cpath:gmatch "[^;]+" do
    local path = template:gsub("%?", "gorge/libgorge")
    local file = io.open(path, "rb")
    if file then
      file:close()
      list[#list + 1] = path
    end
  end
  list[#list + 1] = "libgorge.so"
  return list
end

local function load()
  local problems = {}
  for _, path in ipairs(candidates()) do
    local ok, lib = pcall(ffi.load, path)
    if ok then
      return lib, path
    end
    problems[#problems + 1] = tostring(lib)
  end
  local named = os.getenv "GORGE_LIBRARY"
  error("gorge: cannot load libgorge (" .. (named and named ~= "" and "the environment variable GORGE_LIBRARY names the file"
    or "looked for gorge/libgorge on package.cpath; the environment variable GORGE_LIBRARY can name the file")
    .. "): " .. table.concat(problems, "; "), 0)
end

local function check(lib, path)
  local found, version = pcall(function() return lib.gorge_abi_version() end)
  if not found then
    error(("gorge: %s is not libgorge: %s"):format(path, version), 0)
  elseif version ~= ABI_VERSION then
    error(("gorge: %s has ABI version %d, these Lua modules were made for %d"):format(path, version, ABI_VERSION), 0)
  end
  for i, name in ipairs(STRUCTS) do
    local theirs, ours = lib.gorge_abi_sizeof(i - 1), ffi.sizeof(name)
    if theirs ~= ours then
      error(("gorge: %s has a %s of %d bytes, these Lua modules of %d"):format(path, name, theirs, ours), 0)
    end
  end
end

local lib, path = load()
check(lib, path)

return lib
