-- SPDX-License-Identifier: MIT
--- Reads Debian's package database. It is one text file: paragraphs of
--- "Field: value" lines with an empty line between them.
---
--- Nothing is kept in memory between two calls, so every call reads the whole
--- file. That is what makes it a loader worth caching.

local _M = {}

local PATH = "/var/lib/dpkg/status"
local CHUNK_BYTES = 256 * 1024

--- Calls `visit(paragraph)` for each paragraph, each with "\n" before its first
--- field. `pause`, if given, runs between two chunks of the file: a place to yield.
--- dpkg replaces the file by rename, so an open file never changes underneath.
---@param visit fun(paragraph: string)
---@param pause? fun()
---@return boolean|nil done, string|nil err
local function each_paragraph(visit, pause)
  local file, err = io.open(PATH, "rb")
  if not file then
    return nil, err
  end
  local rest = "\n"
  for chunk in function() return file:read(CHUNK_BYTES) end do
    rest = rest .. chunk
    local from = 1
    while true do
      local stop = rest:find("\n\n", from, true)
      if not stop then
        break
      end
      visit(rest:sub(from, stop))
      from = stop + 1
    end
    rest = rest:sub(from)
    if pause then
      pause()
    end
  end
  file:close()
  if rest:find("%S") then
    visit(rest)
  end
  return true
end

local function field(paragraph, name)
  local _, last = paragraph:find("\n" .. name .. ": ", 1, true)
  return last and paragraph:match("^[^\n]*", last + 1)
end

local function is_installed(paragraph)
  return (field(paragraph, "Status") or ""):find(" installed", 1, true) ~= nil
end

--- "libc6 (>= 2.34), default-mta | mail-transport-agent" becomes
--- {{{name="libc6", wants=">= 2.34"}}, {{name="default-mta"}, {name="mail-transport-agent"}}}
local function parse_depends(text)
  local depends = {}
  for group in text:gmatch("[^,]+") do
    local alternatives = {}
    for one in group:gmatch("[^|]+") do
      alternatives[#alternatives + 1] = {
        name = one:match("^%s*([^%s:(]+)"),
        wants = one:match("%(([^)]*)%)"),
      }
    end
    depends[#depends + 1] = alternatives
  end
  return depends
end

--- What satisfies a dependency: the version of that package, or the package that
--- provides the name, or "missing".
local function resolve(depends, versions, providers)
  for _, alternatives in ipairs(depends) do
    for _, one in ipairs(alternatives) do
      one.installed = versions[one.name] or "missing"
      if not versions[one.name] and providers[one.name] then
        one.installed = "provided by " .. providers[one.name]
      end
    end
  end
end

--- An installed package with its dependencies resolved, or nil if there is none.
---@param name string
---@param pause? fun() see each_paragraph
---@return table|nil package, string|nil err
function _M.package(name, pause)
  local versions, providers, wanted = {}, {}, nil
  local done, err = each_paragraph(function(paragraph)
    local this = field(paragraph, "Package")
    if not this or not is_installed(paragraph) then
      return
    end
    versions[this] = field(paragraph, "Version")
    for provided in (field(paragraph, "Provides") or ""):gmatch("([^%s,(]+)[^,]*") do
      providers[provided] = this
    end
    if this == name then
      wanted = paragraph
    end
  end, pause)
  if not done or not wanted then
    return nil, err
  end
  local found = {
    name = name,
    version = versions[name],
    section = field(wanted, "Section"),
    description = field(wanted, "Description"),
    installed_size_kb = tonumber(field(wanted, "Installed-Size")),
  }
  local depends = field(wanted, "Depends")
  if depends then
    found.depends = parse_depends(depends)
    resolve(found.depends, versions, providers)
  end
  return found
end

--- The installed packages of a section, or nil if there are none.
---@param section string
---@param pause? fun() see each_paragraph
---@return table|nil list, string|nil err
function _M.section(section, pause)
  local packages = {}
  local done, err = each_paragraph(function(paragraph)
    if field(paragraph, "Section") == section and is_installed(paragraph) then
      packages[#packages + 1] = {
        name = field(paragraph, "Package"),
        version = field(paragraph, "Version"),
        description = field(paragraph, "Description"),
      }
    end
  end, pause)
  if not done or #packages == 0 then
    return nil, err
  end
  return { section = section, packages = packages }
end

--- The names of all installed packages and of their sections, in the file's order.
---@return string[]|nil packages, string[]|string sections_or_err
function _M.names()
  local packages, sections, seen = {}, {}, {}
  local done, err = each_paragraph(function(paragraph)
    if not is_installed(paragraph) then
      return
    end
    packages[#packages + 1] = field(paragraph, "Package")
    local section = field(paragraph, "Section")
    if section and not seen[section] then
      seen[section] = true
      sections[#sections + 1] = section
    end
  end)
  if not done then
    return nil, err
  end
  return packages, sections
end

return _M
