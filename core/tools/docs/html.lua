-- SPDX-License-Identifier: MIT
-- Annotated items as one page of HTML: no script, nothing loaded from elsewhere.

local _M = {}

local HEAD = [[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.92em; }
pre { padding: 0.6em 1em; overflow-x: auto; border-left: 3px solid; }
h2 { border-top: 1px solid; padding-top: 1em; margin-top: 2em; }
h3 code { font-size: 1.05em; }
dl { margin: 0.5em 0 1em; }
dt { margin-top: 0.4em; }
dd { margin-left: 2em; }
.type { opacity: 0.75; }
nav li { display: inline-block; margin-right: 1em; }
nav ul { padding-left: 1em; }
</style>
</head>
<body>
]]

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

---@param text string
---@return string
local function escape(text)
  return (text:gsub('[&<>"]', ESCAPES))
end

local function anchor(name)
  return (name:gsub("<.*$", ""):gsub("[^%w_.]", "-")) -- a class is found by its name, without its type parameters
end

---A line of prose: what stands between backquotes is code.
local function inline(text)
  return (escape(text):gsub("`([^`]+)`", "<code>%1</code>"))
end

---Paragraphs; lines that are indented by four blanks are code.
---@param text string
---@return string
local function prose(text)
  local out = {}
  for part in (text .. "\n\n"):gmatch "(.-)\n%s*\n" do
    if part:match "^    " then
      out[#out + 1] = "<pre>" .. escape(part:gsub("^    ", ""):gsub("\n    ", "\n")) .. "</pre>"
    elseif part:match "%S" then
      out[#out + 1] = "<p>" .. inline(part) .. "</p>"
    end
  end
  return table.concat(out, "\n")
end

---A type, with links to the classes that the page describes.
local function type_text(kind, classes)
  local text = escape(kind):gsub("gorge%.[%w_.]+", function(name)
    return classes[name] and ('<a href="#%s">%s</a>'):format(anchor(name), name)
  end)
  return '<code class="type">' .. text .. "</code>"
end

local function list(title, entries, classes)
  if #entries == 0 then
    return ""
  end
  local out = { "<h4>" .. title .. "</h4>", "<dl>" }
  for _, entry in ipairs(entries) do
    local name = entry.name ~= "" and "<code>" .. escape(entry.name) .. (entry.optional and "?" or "") .. "</code> " or ""
    out[#out + 1] = "<dt>" .. name .. type_text(entry.type, classes) .. "</dt>"
    if entry.doc ~= "" then
      out[#out + 1] = "<dd>" .. inline(entry.doc) .. "</dd>"
    end
  end
  out[#out + 1] = "</dl>"
  return table.concat(out, "\n")
end

local function shown(entries)
  local out = {}
  for _, entry in ipairs(entries) do
    if entry.name ~= "self" and not entry.protected then
      out[#out + 1] = entry
    end
  end
  return out
end

local function signature(item)
  local names = {}
  for _, result in ipairs(item.returns) do
    names[#names + 1] = result.name ~= "" and result.name or result.type
  end
  return (#names > 0 and table.concat(names, ", ") .. " = " or "") .. item.title .. "(" .. table.concat(item.args, ", ") .. ")"
end

local function item_text(item, classes)
  local heading = item.kind == "function" and signature(item) or item.title
  local out = { ('<h3 id="%s"><code>%s</code></h3>'):format(anchor(item.title), escape(heading)) }
  out[#out + 1] = prose(item.doc)
  out[#out + 1] = list("Parameters", shown(item.params), classes)
  out[#out + 1] = list("Results", item.returns, classes)
  out[#out + 1] = list("Fields", shown(item.fields), classes)
  return table.concat(out, "\n")
end

---@param title string
---@param sections { title: string, doc: string, items: gorge.docs.Item[] }[] each item has a `title`, its name for users
---@param classes table<string, gorge.docs.Item> those that are on the page
---@return string
function _M.page(title, sections, classes)
  local out = { HEAD:format(escape(title)), "<h1>" .. escape(title) .. "</h1>", "<nav>" }
  for _, section in ipairs(sections) do
    out[#out + 1] = ('<p><a href="#%s">%s</a></p><ul>'):format(anchor(section.title), escape(section.title))
    for _, item in ipairs(section.items) do
      out[#out + 1] = ('<li><a href="#%s"><code>%s</code></a></li>'):format(anchor(item.title), escape(item.title))
    end
    out[#out + 1] = "</ul>"
  end
  out[#out + 1] = "</nav>"
  for _, section in ipairs(sections) do
    out[#out + 1] = ('<h2 id="%s">%s</h2>'):format(anchor(section.title), escape(section.title))
    out[#out + 1] = prose(section.doc)
    for _, item in ipairs(section.items) do
      out[#out + 1] = item_text(item, classes)
    end
  end
  out[#out + 1] = "</body>\n</html>\n"
  return table.concat(out, "\n")
end

return _M
