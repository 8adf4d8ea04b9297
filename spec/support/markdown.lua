-- SPDX-License-Identifier: MIT
--- As much of Markdown as our own pages use: headings, fenced blocks, tables, inline code, links.
local _M = {}

---@class gorge.spec.Block
---@field lang string word after the fence
---@field mark string what a comment `<!-- spec: ... -->` on the line before the fence says, or ""
---@field code string
---@field line integer of the fence
---@field heading string

---@class gorge.spec.Table
---@field heading string
---@field line integer
---@field header string[]
---@field rows string[][]

---@class gorge.spec.Page
---@field blocks gorge.spec.Block[]
---@field tables gorge.spec.Table[]
---@field headings { level: integer, text: string, line: integer }[]
---@field prose { text: string, line: integer, heading: string }[] the lines outside of blocks

local function split_row(line)
  local cells = {}
  for cell in line:gsub("^%s*|", ""):gsub("|%s*$", ""):gsub("$", "|"):gmatch "([^|]*)|" do
    cells[#cells + 1] = cell:match "^%s*(.-)%s*$"
  end
  return cells
end

--- A line of a table belongs to the table of the line before it, or begins one.
local function add_row(page, line, number, heading)
  local last = page.tables[#page.tables]
  if not last or last.last_line ~= number - 1 then
    page.tables[#page.tables + 1] = { heading = heading, line = number, last_line = number, header = split_row(line), rows = {} }
    return
  end
  last.last_line = number
  if not line:match "^[|%s:-]+$" then
    last.rows[#last.rows + 1] = split_row(line)
  end
end

---@param text string
---@return gorge.spec.Page
function _M.parse(text)
  local page = { blocks = {}, tables = {}, headings = {}, prose = {} }
  local heading, block, mark, number = "", nil, "", 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local fence = line:match "^```(.*)$"
    if block and fence then
      block.code = table.concat(block, "\n") .. (#block > 0 and "\n" or "")
      block = nil
    elseif block then
      block[#block + 1] = line
    elseif fence then
      block = { lang = fence, mark = mark, line = number, heading = heading }
      page.blocks[#page.blocks + 1] = block
    else
      local level, title = line:match "^(#+)%s+(.-)%s*$"
      if level then
        heading = title
        page.headings[#page.headings + 1] = { level = #level, text = title, line = number }
      end
      if line:match "^|" then
        add_row(page, line, number, heading)
      end
      page.prose[#page.prose + 1] = { text = line, line = number, heading = heading }
    end
    mark = line:match "^<!%-%- spec: (.-) %-%->$" or ""
  end
  assert(not block, "a block has no end")
  return page
end

---@param line string
---@return string[] contents of `code` spans
function _M.code_spans(line)
  local spans = {}
  for span in line:gmatch "`([^`]+)`" do
    spans[#spans + 1] = span
  end
  return spans
end

---@param page gorge.spec.Page
---@param heading string
---@param nth? integer of those under the heading, 1
---@return gorge.spec.Table
function _M.table_under(page, heading, nth)
  local seen = 0
  for _, found in ipairs(page.tables) do
    if found.heading == heading then
      seen = seen + 1
      if seen == (nth or 1) then
        return found
      end
    end
  end
  error(("no table %d under the heading %q"):format(nth or 1, heading), 2)
end

--- The anchor that a heading gets on the usual sites.
---@param title string
---@return string
function _M.anchor(title)
  return (title:lower():gsub("[^%w%s_-]", ""):gsub("%s", "-"))
end

return _M
