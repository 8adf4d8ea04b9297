-- SPDX-License-Identifier: MIT
-- Annotations of the public interface: complete, true to the code, and the same as README.md says; whatever is wrong is found.
local helper = require "spec.helper"
local markdown = require "spec.support.markdown"

package.path = package.path .. ";core/tools/docs/?.lua"
local annotations = require "annotations"
local html = require "html"

local function read(path)
  return assert(helper.read_file(path))
end

local page = markdown.parse(read "README.md")

---The public functions of a file, by their names for users.
local function functions(path, prefix)
  local found = {}
  for _, item in ipairs((annotations.parse(read(path), path))) do
    if item.kind == "function" then
      found[item.name:gsub("^[%w_]+[.:]", prefix)] = item
    end
  end
  return found
end

local function class(path, name)
  for _, item in ipairs((annotations.parse(read(path), path))) do
    if item.kind == "class" and item.name == name then
      return item
    end
  end
end

local function names(list)
  local out = {}
  for _, entry in ipairs(list) do
    if entry.name ~= "self" and not entry.protected then
      out[#out + 1] = entry.name
    end
  end
  return out
end

local function sorted(list)
  table.sort(list)
  return list
end

local function problems_of(text)
  local items, problems = annotations.parse(text, "f.lua")
  local classes, public = {}, {}
  for _, item in ipairs(items) do
    if item.kind == "class" then
      classes[item.name] = item
    end
    public[#public + 1] = item.kind ~= "other" and item or nil
  end
  for _, problem in ipairs(annotations.check(public, classes)) do
    problems[#problems + 1] = problem
  end
  return problems
end

describe("annotations", function()
  it("of all public functions and classes are complete", function()
    local status, output = helper.process.run { "luajit", "core/tools/docs/make.lua" }
    assert.equal("", output)
    assert.equal(0, status)
  end)

  it("name the results and parameters that README.md shows", function()
    local documented = {}
    for name, item in pairs(functions("lua/gorge/init.lua", "gorge.")) do
      documented[name] = item
    end
    for name, item in pairs(functions("lua/gorge/cache.lua", "cache:")) do
      documented[name] = item
    end
    local count = 0
    for _, line in ipairs(page.prose) do
      local results, name, params = line.text:match "^`([^`]-)([%w_]+[.:][%w_]+)%(([^`]*)%)`"
      local item = name and name == line.heading and documented[name]
      if item then
        count = count + 1
        documented[name] = nil
        local shown, wanted = {}, {}
        for result in results:gsub(" = $", ""):gmatch "[^, ]+" do
          shown[#shown + 1] = result
        end
        for _, result in ipairs(item.returns) do
          wanted[#wanted + 1] = result.name
        end
        -- Results that are there only once the cache is closed are told of in one place.
        for i = #wanted, #shown + 1, -1 do
          assert.equal("err", wanted[i], name)
          wanted[i] = nil
        end
        assert.same(wanted, shown, name)
        local parameters = {}
        for param in params:gmatch "[^, ]+" do
          parameters[#parameters + 1] = param
        end
        local expected = names(item.params)
        if name == "cache:invalidate_tags" then
          expected = { "tag", "..." }
        elseif name == "gorge.new" then
          expected = { "options" }
        end
        for i, param in ipairs(parameters) do
          local plain, mark = param:match "^(.-)(%??)$"
          assert.equal(expected[i], plain, name)
          if mark == "?" then
            local kind = item.params[#item.params - #expected + i].type
            assert.is_truthy(kind:find("nil", 1, true) or kind:find("T|nil", 1, true), name .. ": " .. plain)
          end
        end
        assert.equal(#expected, #parameters, name)
      end
    end
    assert.is_true(count > 15)
    assert.same({}, documented)
  end)

  it("of options name those that there are", function()
    local function documented(heading, n)
      local list = {}
      for _, row in ipairs(markdown.table_under(page, heading, n).rows) do
        list[#list + 1] = row[1]:match "`(.-)`"
      end
      return sorted(list)
    end
    local path = "lua/gorge/options.lua"
    assert.same(documented("Options", 1), sorted(names(class(path, "gorge.Options").fields)))
    assert.same(documented("Options of one call"), sorted(names(class(path, "gorge.CallOptions").fields)))
    assert.same(documented("Options", 2), sorted(names(class(path, "gorge.CircuitBreakerOptions").fields)))
    assert.same(documented("Options", 3), sorted(names(class(path, "gorge.RedisOptions").fields)))
  end)

  it("make a cache generic in its values", function()
    assert.same({ T = true }, class("lua/gorge/cache.lua", "gorge.Cache").generics)
    local methods = functions("lua/gorge/cache.lua", "cache:")
    for name, results in pairs {
      ["cache:fetch"] = "T|nil", ["cache:get"] = "T|nil", ["cache:update"] = "T|nil", ["cache:fetch_many"] = "table<string, T>|nil",
    } do
      assert.same({ "self", "gorge.Cache<T>" }, { methods[name].params[1].name, methods[name].params[1].type })
      assert.equal(results, methods[name].returns[1].type)
      assert.is_true(methods[name].generics.T)
    end
  end)
end)

describe("what is wrong with an annotation", function()
  it("is found", function()
    local good = "---Does.\n---@param a string what\n---@param b? number|nil\n---@return T|nil value\n---@generic T\nfunction _M.f(a, b)\nend\n"
    assert.same({}, problems_of(good))
    for problem, change in pairs {
      ["f.lua:1: _M.f: has no description"] = { "---Does.\n", "---\n" },
      ["f.lua:1: _M.f: has the parameters (a, b), its annotations name (b)"] = { "---@param a string what\n", "" },
      ["f.lua:1: _M.f: has the parameters (a, c), its annotations name (a, b)"] = { "%(a, b%)", "(a, c)" },
      ["f.lua:1: _M.f: parameter a has no type"] = { "a string what", "a" },
      ["f.lua:1: _M.f: parameter a: there is no class gorge.Nothing"] = { "a string", "a gorge.Nothing[]" },
      ["f.lua:1: _M.f: result 1: the type parameter T is not declared"] = { "---@generic T\n", "" },
      ["f.lua:1: _M.f: result 1 has no type"] = { "@return T|nil value", "@return" },
      ["f.lua:4: unknown tag @returns"] = { "@return T", "@returns T" },
    } do
      assert.same({ problem }, problems_of((good:gsub(change[1], change[2]))))
    end
    assert.same({ "f.lua:1: _M.g: has no description" }, problems_of "function _M.g()\nend\n")
    assert.same({ "f.lua:1: C: has no description", "f.lua:1: C: field a stands twice" },
      problems_of "---@class C\n---@field a string\n---@field a number\nlocal C = {}\n")
    assert.same({}, problems_of "---\nlocal function hidden(a)\nend\n")
  end)

  it("types are told from what is said of them", function()
    for text, kind in pairs {
      ["string what it is"] = "string", ["string|nil a, b"] = "string|nil",
      ["fun(a: string, ...): any, table|nil returns it"] = "fun(a: string, ...): any, table|nil",
      ['"a b"|"c" one'] = '"a b"|"c"', ["{ a: string, b?: { c: number } }|nil x"] = "{ a: string, b?: { c: number } }|nil",
      ["table<string, T>|nil values"] = "table<string, T>|nil", ["gorge.Cache<any>[]|nil"] = "gorge.Cache<any>[]|nil",
    } do
      assert.equal(kind, (annotations.take_type(text)))
    end
  end)
end)

describe("the page that make docs writes", function()
  it("has every function, class and field, escapes what it shows, and links what it has", function()
    local dir = helper.temp_dir()
    local status, output = helper.process.run { "luajit", "core/tools/docs/make.lua", dir }
    assert.equal(0, status, output)
    local text = read(dir .. "/index.html")
    for _, wanted in ipairs {
      "<code>value, err, source = cache:fetch(key, ttl, fn, tags, opts)</code>", 'id="gorge.new"', "<code>freshness_bound?</code>",
      'href="#gorge.CallOptions"', "gorge.Cache&lt;T&gt;", "<pre>local user, err, source = cache:fetch(",
    } do
      assert.matches(wanted, text, 1, true)
    end
    assert.is_nil(text:find("<code>engine", 1, true)) -- is nobody's business
    local ids = {}
    for id in text:gmatch 'id="(.-)"' do
      assert.is_nil(ids[id], id)
      ids[id] = true
    end
    for target in text:gmatch 'href="#(.-)"' do
      assert.is_true(ids[target], target)
    end
    local evil = { kind = "class", name = "x", title = "<script>", doc = "a & <b> `<i>`", params = {}, returns = {}, fields = {} }
    local escaped = html.page("<title>", { { title = "s", doc = "", items = { evil } } }, {})
    assert.is_nil(escaped:find("<script>", 1, true))
    assert.is_nil(escaped:find("<i>", 1, true))
  end)
end)
