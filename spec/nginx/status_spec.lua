-- SPDX-License-Identifier: MIT
-- The status page: what the handler answers, and what a browser makes of it.
local cjson = require "cjson"
local helper = require "spec.helper"
local process = helper.process

local HTTP = [[
  init_by_lua_block {
    local gorge = require "gorge"
    cache = assert(gorge.new {
      namespace = "shop", l1_size = "4m", circuit_breaker = { max_failures = 2, timeout = 60 },
      redis = { host = "127.0.0.1", port = {{redis_port}}, password = "s3cret-Pa55word", timeout = 10, connect_timeout = 10 },
    })
    other = assert(gorge.new { namespace = "sessions", l1_size = "4m" })
    looks = { count = 0 }
  }
]]

local SERVER = [[
  location = /status { content_by_lua_block {
    require("gorge.status").serve({ cache, other }, { title = "shop <1> & {{nonce}}", refresh = 0.5 })
  } }
  # Between two looks something has happened, another number of times each.
  location = /moving { content_by_lua_block {
    looks.count = looks.count + 1
    for i = 1, looks.count * 7 % 20 do cache:fetch("secret-key-" .. i, 60, function() return "secret-value" end) end
    require("gorge.status").serve({ cache, other }, { title = "shop", refresh = 0.5 })
  } }
  location = /one { content_by_lua_block { require("gorge.status").serve(cache) } }
  location = /hot { content_by_lua_block {
    require("gorge.status").serve({ cache, other }, { title = "hot keys", refresh = 0.5, hot_keys = 5 })
  } }
  location = /use { content_by_lua_block {
    for _ = 1, ngx.var.arg_times or 1 do
    for i = 1, 300 do
      cache:fetch("hot<b>" .. (i % 3 == 0 and "\\\\1" or ""), 60, function() return ("value"):rep(100) end)
      cache:fetch("page:/a/rather/long/path/of/a/page/that/does/not/fit/into/one/line/of/a/phone?with=arguments&more=" .. i % 9, 60,
        function() return "x" end)
      other:fetch("session:" .. i % 40, 60, function() return "y" end)
    end
    ngx.sleep(ngx.var.arg_times and 0.003 or 0)
    end
  } }
  location = /wrong { content_by_lua_block {
    local status = require "gorge.status"
    local function try(...) local ok, err = pcall(function(...) status.serve(...) end, ...) ngx.say(tostring(ok), " ", err) end
    try(1) try({}) try(cache, 1) try(cache, { titel = "x" }) try(cache, { refresh = 0 }) try(cache, { title = "" }) try(cache, { hot_keys = 1.5 })
  } }
  location = /listens { content_by_lua_block {
    cache:get "nothing"
    ngx.print(tostring(cache:stats().subscribed))
  } }
  location = /load { content_by_lua_block {
    for i = 1, 20 do cache:fetch("secret-key-" .. i, 60, function() return "secret-value" end) end
    if ngx.var.arg_cold then cache:get("secret-cold-" .. ngx.var.request_id) end
  } }
]]

local redis, nginx

setup(function()
  redis = helper.redis { password = "s3cret-Pa55word" }
  nginx = helper.nginx { workers = 1, http = HTTP, server = SERVER, values = { redis_port = redis.port } }
  helper.wait_until(function() return nginx:get("/listens").body == "true" end) -- a host that begins to listen may empty its L1
  nginx:get "/load"
end)

describe("status.serve", function()
  it("answers with what is asked for, by query or by Accept", function()
    local browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for _, case in ipairs {
      { "/status", nil, "text/html; charset=utf-8" },
      { "/status", browser, "text/html; charset=utf-8" },
      { "/status", "*/*", "text/html; charset=utf-8" },
      { "/status", "application/json", "application/json" },
      { "/status", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8" },
      { "/status?format=json", browser, "application/json" },
      { "/status?format=prometheus", browser, "text/plain; version=0.0.4; charset=utf-8" },
      { "/status?format=html", "application/json", "text/html; charset=utf-8" },
    } do
      local response = nginx:get(case[1], case[2] and { Accept = case[2] })
      assert.equal(200, response.status)
      assert.equal(case[3], response.headers["content-type"])
      assert.equal("no-store", response.headers["cache-control"])
      assert.equal("nosniff", response.headers["x-content-type-options"])
    end
    assert.equal(400, nginx:get("/status?format=xml").status)
    assert.equal(405, nginx:request({ uri = "/status", method = "POST" }).status)
  end)

  it("tells programs of all caches", function()
    local told = cjson.decode(nginx:get("/status?format=json").body)
    assert.equal(require("gorge")._VERSION, told.version)
    assert.same({ "shop", "sessions" }, { told.caches[1].namespace, told.caches[2].namespace })
    assert.equal(20, told.caches[1].loads)
    assert.equal(20, told.caches[1].entries)
    assert.equal("redis://127.0.0.1:" .. redis.port .. "/0", told.caches[1].redis_address)
    assert.equal(1, #cjson.decode(nginx:get("/one?format=json").body).caches)
    local text = nginx:get("/status?format=prometheus").body
    assert.matches('gorge_loads_total{namespace="shop",zone="shop"} 20\n', text, 1, true)
    assert.matches('gorge_loads_total{namespace="sessions",zone="sessions"} 0\n', text, 1, true)
  end)

  it("shows no key, no value and no password", function()
    for _, format in ipairs { "html", "json", "prometheus" } do
      local body = nginx:get("/status?format=" .. format).body
      assert.is_nil(body:find("secret", 1, true))
      assert.is_nil(body:find("s3cret", 1, true))
    end
  end)

  it("is one document: nothing is loaded from elsewhere, and its own policy forbids it", function()
    local response = nginx:get "/status"
    local policy = response.headers["content-security-policy"]
    local nonce = policy:match "script%-src 'nonce%-([%w+/=]+)'"
    assert.matches("default-src 'none'", policy, 1, true)
    assert.is_nil(policy:find("unsafe", 1, true))
    assert.is_not_equal(policy, nginx:get("/status").headers["content-security-policy"])
    assert.matches('<script nonce="' .. nonce .. '">', response.body, 1, true)
    assert.matches('<style nonce="' .. nonce .. '">', response.body, 1, true)
    assert.is_nil(response.body:match "[%s]style%s*=" or response.body:match "%son%l+%s*=")
    for name, address in response.body:gmatch '(%l+)="([^"]*)"' do
      if name ~= "nonce" then -- whose letters are drawn
        assert.is_nil(address:match "^//" or address:match "^https?:", address)
      end
    end
    assert.matches("<title>shop &lt;1&gt; &amp; {{nonce}}</title>", response.body, 1, true)
  end)

  it("refuses misuse at the caller's line", function()
    local said = {}
    for line in nginx:get("/wrong").body:gmatch "[^\n]+" do
      said[#said + 1] = line
    end
    local expected = {
      "status.serve takes a cache or an array of caches, got 1", "status.serve takes a cache or an array of caches, got a table",
      "the options of status.serve must be a table, got 1", "status.serve: unknown option 'titel', did you mean 'title'?",
      "status.serve: option 'refresh' must be a number of seconds from 0.5 to 3600, got 0",
      "status.serve: option 'title' must be 1 to 100 bytes of UTF-8, got \"\"",
      "status.serve: option 'hot_keys' must be an integer from 0 to 100, got 1.5",
    }
    for i, problem in ipairs(expected) do
      assert.matches("^false content_by_lua%([^)]*%):%d+: gorge: ", said[i])
      assert.matches(problem, said[i], 1, true)
    end
    assert.equal(#expected, #said)
  end)
end)

describe("hot keys", function()
  it("are named when the option allows it, the hottest first, escaped", function()
    local told
    helper.wait_until(function()
      local going = nginx:start_requests { "/use?times=100" }
      told = cjson.decode(nginx:get("/hot?format=json").body)
      going:finish()
      local keys = told.caches[1].hot_keys
      return keys and keys[1].key == "hot<b>"
    end, { message = function() return cjson.encode(told) end })
    assert.is_true(#told.caches[1].hot_keys <= 5)
    local first = told.caches[1].hot_keys[1]
    assert.is_true(first.share > 0.1 and first.share < 0.9, "share " .. first.share)
    assert.equal(500, first.size)
    assert.is_true(first.ttl > 0 and first.ttl <= 60 and first.frequency >= 0)
    for _, cache in ipairs(told.caches) do
      for _, hot in ipairs(cache.hot_keys or {}) do
        assert.equal(cache.namespace == "sessions", hot.key:find("^session:") ~= nil)
        assert.is_nil(hot.key:find "[%c\127-\255]")
      end
    end
    local plain = nginx:get("/status?format=json").body
    assert.is_nil(plain:find("hot", 1, true) or plain:find("session:", 1, true))
    local page = nginx:get "/hot"
    assert.is_nil(page.body:find("hot<b>", 1, true), "the page itself holds no key")
  end)
end)

describe("the page in a browser", function()
  local FLAGS = {
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
  }

  local function browser()
    for _, name in ipairs { "chromium", "chromium-browser", "google-chrome" } do
      if process.run { "sh", "-c", "command -v " .. name } == 0 then
        return name
      end
    end
    assert(not os.getenv "CI", "chromium is not installed, and CI has to have it")
  end

  -- Lets the page live for so many of its seconds while requests go on; returns its document at the end.
  local path, load = "/status", "/load"

  local function document(seconds, ...)
    local out = helper.temp_dir()
    local command = { browser(), "--user-data-dir=" .. out .. "/profile", "--virtual-time-budget=" .. seconds * 1000 }
    for _, flag in ipairs(FLAGS) do
      command[#command + 1] = flag
    end
    for _, flag in ipairs { ... } do
      command[#command + 1] = flag
    end
    command[#command + 1] = "http://127.0.0.1:" .. nginx.port .. path
    command.stdout, command.stderr, command.env = out .. "/document", out .. "/stderr", { HOME = out }
    local running = helper.spawn(command)
    local deadline = helper.now() + 60
    while running:alive() and helper.now() < deadline do
      nginx:get(load)
      helper.sleep(0.005)
    end
    assert.equal(0, running:stop(), process.read_file(out .. "/stderr"))
    return process.read_file(out .. "/document")
  end

  local function field(page, name)
    return page:match('data%-f="' .. name .. '"[^>]*>([^<]*)<')
  end

  local function run(name, test)
    it(name, function()
      if not browser() then
        return pending "chromium is not installed: apt-get install chromium"
      end
      test()
    end)
  end

  run("renders both caches, and moves under load", function()
    path = "/moving"
    finally(function() path = "/status" end)
    local page = document(10, "--dump-dom")
    assert.matches("live, every 0.5 s", page, 1, true)
    assert.matches('data-f="namespace">shop</h2>', page, 1, true)
    assert.matches('data-f="namespace">sessions</h2>', page, 1, true)
    assert.equal("ready", field(page, "redis"))
    assert.equal("closed", field(page, "breaker"))
    assert.equal("listening", field(page, "listening"))
    assert.equal("", field(page, "alert"))
    assert.matches("^%d[%d.]* %%$", field(page, "ratio"))
    local l0 = page:match '<polygon class="l0" points="([^"]+)"'
    local heights, count = {}, 0
    for y in l0:gmatch ",([%d.]+)" do
      count = count + (heights[y] and 0 or 1)
      heights[y] = true
    end
    assert.is_true(count > 3, "the chart does not move: " .. l0)
    assert.is_nil(page:find("secret", 1, true))
    assert.is_nil(page:find("NaN", 1, true) or page:find("undefined</", 1, true) or page:find("Infinity", 1, true))
  end)

  for _, look in ipairs {
    { "light", "--blink-settings=preferredColorScheme=1", 1200 },
    { "dark", "--blink-settings=preferredColorScheme=0", 1200 },
    { "on a phone", "--blink-settings=preferredColorScheme=1", 500 },
  } do
    run("paints " .. look[1], function()
      local picture = (os.getenv "GORGE_SPEC_PICTURES" or helper.temp_dir()) .. "/status-" .. look[1]:gsub(" ", "-") .. ".png"
      document(5, "--screenshot=" .. picture, look[2], "--window-size=" .. look[3] .. ",1500")
      local bytes = assert(process.read_file(picture), "no picture")
      assert.equal("\137PNG", bytes:sub(1, 4))
      assert.is_true(#bytes > 30000, #bytes .. " bytes: an empty page?") -- one with nothing but its heading has less than 10,000
    end)
  end

  for _, look in ipairs {
    { "light", "--blink-settings=preferredColorScheme=1", 1200 },
    { "dark on a phone", "--blink-settings=preferredColorScheme=0", 400 },
  } do
    run("shows hot keys, " .. look[1], function()
      path, load = "/hot", "/use"
      finally(function() path, load = "/status", "/load" end)
      local picture = (os.getenv "GORGE_SPEC_PICTURES" or helper.temp_dir()) .. "/hot-" .. look[1]:gsub(" ", "-") .. ".png"
      local page = document(4, "--dump-dom", "--screenshot=" .. picture, look[2], "--window-size=" .. look[3] .. ",2600")
      assert.matches('<tbody data%-f="keys"><tr><td>hot&lt;b&gt;</td><td>[%d.KM]+</td><td>[%d.]+ %%</td><td>500 B</td>', page)
      assert.matches('data-f="hot"><div class="head"><h3>Hottest keys', page, 1, true)
      assert.is_nil(page:find("NaN", 1, true) or page:find("undefined</", 1, true))
    end)
  end

  run("shows an open breaker when Redis is away", function()
    redis:kill()
    helper.wait_until(function()
      nginx:get "/load?cold=1"
      local told = cjson.decode(nginx:get("/status?format=json").body)
      return told.caches[1].breaker == "open"
    end, { message = "the breaker did not open" })
    local page = document(5, "--dump-dom")
    assert.matches("The circuit breaker is open", field(page, "alert"))
    assert.equal("open", field(page, "breaker"))
    assert.matches('<div class="value bad" data%-f="breaker">open<', page)
    assert.equal("not listening", field(page, "listening"))
  end)
end)
