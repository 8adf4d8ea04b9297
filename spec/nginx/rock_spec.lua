-- SPDX-License-Identifier: MIT
-- Runs alone: it builds in the checkout, whose library others load.
-- The rock, built from a copy of the checkout into an empty tree: plain LuaJIT and nginx need nothing else on their paths.
local helper = require "spec.helper"

local process = helper.process

describe("the rock", function()
  local tree, lua_path, lua_cpath

  -- lua-cjson comes from the system, not from the tree.
  local cjson = assert(package.searchpath("cjson", package.cpath), "lua-cjson is not installed")

  setup(function()
    local source = helper.temp_dir()
    local home = helper.temp_dir()
    tree = helper.temp_dir()
    for _, name in ipairs { "Makefile", "core", "lua", "rockspec", "LICENSE" } do
      assert(process.run { "cp", "-r", helper.paths.root .. "/" .. name, source .. "/" } == 0)
    end
    local status, output = process.run {
      "luarocks", "make", "rockspec/gorge-scm-1.rockspec", "--tree", tree,
      cwd = source,
      env = { HOME = home, BUILD = false, MAKEFLAGS = false, MAKELEVEL = false, GORGE_LIBRARY = false },
      timeout = 240,
    }
    assert(status == 0, output)
    lua_path = tree .. "/share/lua/5.1/?.lua;" .. tree .. "/share/lua/5.1/?/init.lua"
    lua_cpath = tree .. "/lib/lua/5.1/?.so;" .. cjson:gsub("cjson%.so$", "?.so")
  end)

  it("loads and caches in plain LuaJIT from any folder", function()
    local status, output = helper.luajit([[
      local gorge = require "resty.gorge"
      assert(gorge == require "gorge")
      local cache = gorge.new { namespace = os.getenv "NAMESPACE", l1_size = "4m" }
      local runs = 0
      for _ = 1, 3 do
        local value, err = cache:fetch("answer", 60, function() runs = runs + 1 return { 42 } end)
        assert(value and value[1] == 42, err)
      end
      print(runs, package.searchpath("gorge", package.path))
      cache:close()
    ]], {
      cwd = helper.temp_dir(),
      env = {
        LUA_PATH = lua_path, LUA_CPATH = lua_cpath, GORGE_LIBRARY = false, GORGE_BUILD = false,
        NAMESPACE = helper.unique_name "rock",
      },
    })
    assert.equal(("1\t%s/share/lua/5.1/gorge/init.lua\n"):format(tree), output)
    assert.equal(0, status)
  end)

  it("has a command line that needs no path, and sees what runs", function()
    local nginx = helper.nginx {
      lua_path = lua_path,
      lua_cpath = lua_cpath,
      env = { GORGE_LIBRARY = false },
      values = { namespace = helper.unique_name "rock" },
      http = [[init_by_lua_block { cache = require("gorge").new { namespace = "{{namespace}}", l1_size = "4m" } }]],
      server = [[location = /set { content_by_lua_block { cache:set("answer", 42, 60) } }]],
    }
    assert.equal(200, nginx:get("/set").status)
    local function gorge(...)
      return process.run {
        tree .. "/bin/gorge", cwd = "/", env = { LUA_PATH = false, LUA_CPATH = false, GORGE_LIBRARY = false, GORGE_BUILD = false }, ...,
      }
    end
    local status, output = gorge "--version"
    assert.same({ 0, "gorge " .. require "gorge.version" .. "\n" }, { status, output })
    status, output = gorge("peek", nginx.opts.values.namespace, "answer")
    assert.equal(0, status, output)
    assert.matches("kind +number", output)
    status, output = gorge("doctor", nginx.opts.values.namespace)
    assert.matches("ngx_lua +0%.10%.%d+", output)
    assert.equal(0, status, output)
  end)

  it("loads and caches in nginx", function()
    local nginx = helper.nginx {
      lua_path = lua_path,
      lua_cpath = lua_cpath,
      env = { GORGE_LIBRARY = false },
      values = { namespace = helper.unique_name "rock", tree = tree },
      http = [[
        init_by_lua_block {
          cache = require("resty.gorge").new { namespace = "{{namespace}}", l1_size = "4m" }
        }
      ]],
      server = [[
        location = /where { content_by_lua_block { ngx.print(package.searchpath("gorge", package.path)) } }
        location = /fetch {
          content_by_lua_block {
            local value, err, source = cache:fetch("answer", 60, function() return "42" end)
            ngx.print(tostring(value), " ", tostring(err), " ", source)
          }
        }
      ]],
    }
    assert.equal(tree .. "/share/lua/5.1/gorge/init.lua", nginx:get("/where").body)
    local first = nginx:connect_worker(0)
    local second = nginx:connect_worker(1)
    assert.equal("42 nil fn", first:get("/fetch").body)
    assert.equal("42 nil l0", first:get("/fetch").body)
    assert.equal("42 nil l1", second:get("/fetch").body)
    assert.same({}, nginx:log_lines())
  end)
end)
