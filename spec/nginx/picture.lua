-- SPDX-License-Identifier: MIT
--- Paints the status page under load, for README.md: busted spec/nginx/picture.lua, see `make picture`. PICTURE names the file.
local helper = require "spec.helper"
local process = helper.process

-- Two nodes, so that Redis has something to answer: the second one is another zone of the same processes.
local HTTP = [[
  init_by_lua_block {
    local gorge = require "gorge"
    local options = { namespace = "users", l1_size = "16m", l1_objects = 400, redis = "{{redis}}", circuit_breaker = true }
    users = assert(gorge.new(options))
    options.zone = "elsewhere"
    elsewhere = assert(gorge.new(options))
    local function load_user(key)
      ngx.sleep(0.002 + math.random() ^ 4 * 0.02)
      return { name = key, text = ("x"):rep(200) }
    end
    local function visitors(cache)
      while not ngx.worker.exiting() do
        for _ = 1, 20 do
          cache:fetch("user:" .. math.floor(math.random() ^ 3 * 4000), 2 + math.random() * 4, load_user)
        end
        ngx.sleep(0.001)
      end
    end
    function begin(premature, cache)
      for _ = 1, 10 do
        ngx.thread.spawn(visitors, cache)
      end
    end
  }
  init_worker_by_lua_block {
    ngx.timer.at(0, begin, users)
    ngx.timer.at(0, begin, elsewhere)
  }
]]

local SERVER = [[
  location = /status { content_by_lua_block { require("gorge.status").serve(users, { title = "shop", refresh = 0.5 }) } }
]]

describe("the picture of the status page", function()
  it("is painted", function()
    local path = assert(os.getenv "PICTURE", "PICTURE names the file")
    local nginx = helper.nginx { workers = 2, http = HTTP, server = SERVER, values = { redis = helper.redis().url } }
    local out = helper.temp_dir()
    helper.sleep(2)
    local running = helper.spawn {
      "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" .. out .. "/profile",
      "--virtual-time-budget=60000", "--blink-settings=preferredColorScheme=1", "--window-size=1000,1060", "--screenshot=" .. path,
      "http://127.0.0.1:" .. nginx.port .. "/status", stdout = out .. "/stdout", stderr = out .. "/stderr", env = { HOME = out },
    }
    helper.wait_until(function() return not running:alive() end, { timeout = 120, interval = 0.1, message = "the browser does not end" })
    assert.equal(0, running:stop(), process.read_file(out .. "/stderr"))
    assert.equal("\137PNG", assert(process.read_file(path)):sub(1, 4))
  end)
end)
