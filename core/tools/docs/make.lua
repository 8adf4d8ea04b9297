-- SPDX-License-Identifier: MIT
-- Makes a page of the annotations of the public interface: luajit core/tools/docs/make.lua FOLDER
-- Without a folder it only checks them. Whatever is wrong with an annotation is an error; then nothing is written.

package.path = arg[0]:gsub("make%.lua$", "?.lua") .. ";" .. package.path

local annotations = require "annotations"
local html = require "html"

-- What users see: the files, and the words that stand for a file's own table.
local SECTIONS = {
  { title = "Module", file = "lua/gorge/init.lua", prefix = "gorge.", doc = 'The module. `require "resty.gorge"` gives the same table.' },
  { title = "Caches", file = "lua/gorge/cache.lua", prefix = "cache:", doc = "The methods of what `gorge.new` returns." },
  { title = "gorge.status", file = "lua/gorge/status.lua", prefix = "gorge.status.", doc = 'The status page, `require "gorge.status"`.' },
  {
    title = "Options", file = "lua/gorge/options.lua", doc = "Tables that `gorge.new`, the methods and loaders give and take.",
    only = {
      "gorge.Options", "gorge.CallOptions", "gorge.Overrides", "gorge.RedisOptions", "gorge.CircuitBreakerOptions", "gorge.Serializer",
      "gorge.Metrics",
    },
  },
}

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function sources()
  local pipe = assert(io.popen "find lua -name '*.lua' | LC_ALL=C sort")
  local list = {}
  for path in pipe:lines() do
    list[#list + 1] = path
  end
  pipe:close()
  return list
end

local problems, parsed, classes = {}, {}, {}
for _, path in ipairs(sources()) do
  local items, found = annotations.parse(read(path), path)
  parsed[path] = items
  for _, problem in ipairs(found) do
    problems[#problems + 1] = problem
  end
  for _, item in ipairs(items) do
    if item.kind == "class" then
      classes[item.name] = item
    end
  end
end

local shown = {}
for _, section in ipairs(SECTIONS) do
  section.items = {}
  local wanted = {}
  for i, name in ipairs(section.only or {}) do
    wanted[name] = i
  end
  for _, item in ipairs(parsed[section.file] or {}) do
    local is_ours = section.only and wanted[item.name] or not section.only and item.kind ~= "other"
    if is_ours then
      item.title = item.kind == "class" and item.name .. (item.parameters or "") or item.name:gsub("^[%w_]+[.:]", section.prefix)
      section.items[#section.items + 1] = item
      if item.kind == "class" then
        shown[item.name], wanted[item.name] = item, nil
      end
    end
  end
  for name in pairs(wanted) do
    problems[#problems + 1] = section.file .. ": there is no class " .. name
  end
  if #section.items == 0 then
    problems[#problems + 1] = section.file .. ": nothing public was found"
  end
  for _, problem in ipairs(annotations.check(section.items, classes)) do
    problems[#problems + 1] = problem
  end
end

if #problems > 0 then
  io.stderr:write(table.concat(problems, "\n"), "\n")
  os.exit(1)
end
if arg[1] then
  local file = assert(io.open(arg[1] .. "/index.html", "wb"))
  file:write(html.page("gorge", SECTIONS, shown))
  file:close()
  print(arg[1] .. "/index.html")
end
