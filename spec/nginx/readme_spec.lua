-- SPDX-License-Identifier: MIT
-- Runs alone: it builds in the checkout, whose library others load.
-- Every code block of README.md is run. How, is told by the word after the fence and by a comment on the line before it:
--
--   ```nginx                        a whole nginx.conf: started, with free ports and a Redis of the test's
--   ```nginx  spec: fragment        what stands outside of http {}, and what goes into it
--   ```nginx  spec: module           what stands at the top of nginx.conf, where that module was built
--   ```nginx  spec: location /path   a location: put into a server, then asked for
--   ```sh                           command by command, see COMMANDS
--   ```sh     spec: sentinel        the same, for a sentinel of the test's; then its user is tried
--   ```sh     spec: cluster         the same, for a cluster of the test's, after the commands for a user with few rights
--   ```lua                          a program: run by LuaJIT
--   ```python                       a program that reads what the quick start has stored
--   ```lua    spec: snippet         a piece of code that uses `cache` and `db`: run inside gorge.run and in a content handler
--   ```sh     spec: gorge           commands of the command line, which look at the server of the quick start
--   ```text   spec: gorge stat      what such a command prints: the same lines, other figures
--   ```lua    spec: tls             a program that connects with TLS
--   ```text                         what the block before it printed
--   ```text   spec: output, l0 may be l1     the same, but another worker may have answered
--   ```text   spec: demo            what `make demo` prints: the same lines, other figures
--
-- A block for which there is no way to be run fails.
local gorge = require "spec.cli.program"
local helper = require "spec.helper"
local markdown = require "spec.support.markdown"
local process = helper.process
local paths = helper.paths

local page = markdown.parse(assert(process.read_file(paths.root .. "/README.md")))

local redis, quick_start -- servers that blocks run against
local printed = {} -- what blocks printed, by block

local function replaced(text, from, to)
  local out, count = text:gsub(from:gsub("%p", "%%%0"), (to:gsub("%%", "%%%%")))
  assert(count > 0, "the block does not contain " .. from)
  return out
end

local function squeezed(text)
  return (text:gsub("[ \t]+", " "):gsub(" ?\n", "\n"))
end

-- Programs ---------------------------------------------------------------------------------------------------------------

local function run_program(block)
  local status, output = helper.luajit(block.code, { cwd = helper.temp_dir() })
  assert.equal(0, status, output)
  printed[block] = output
end

-- The servers that a program names are those of the test.
local function run_python(block)
  local path = helper.temp_dir() .. "/program.py"
  helper.write_file(path, replaced(block.code, '"redis-cli"', ('"redis-cli", "-p", "%d"'):format(redis.port)))
  quick_start:get "/user/7" -- the blocks in between may have taken longer than its ttl
  local status, output = process.run { "/usr/bin/python3", path }
  assert.equal(0, status, output)
  printed[block] = output
end

-- A program that connects with TLS: with certificates of the test's own in the places that it names.
local function run_tls_program(block)
  local dir = helper.temp_dir()
  local authority = require("spec.support.certificates").authority(dir, "redis-ca")
  local server = authority:issue("server", { alt = "DNS:redis.example" })
  authority:issue "client"
  local secure = helper.redis { password = "a-password", tls = { cert = server.cert, key = server.key, ca = authority.ca, clients = "yes" } }
  local code = replaced(replaced(replaced(block.code, "/etc/my-app", dir), "10.0.0.5", "127.0.0.1"), "6380", tostring(secure.tls_port))
  local status, output = helper.luajit(code .. [[
    assert(cache:set("key", "value", 60))
    assert(cache:stats().redis == "ready")
  ]])
  assert.equal(0, status, output)
end

local SNIPPET_NEEDS = [[
  local rows = { ["user:101"] = { name = "Ada", org = 7 } }
  local db = {}
  function db:find(key) return rows[key] end
  function db:select(_, keys)
    local list = {}
    for _, key in ipairs(keys) do
      list[#list + 1] = rows[key] and { key = key, name = rows[key].name }
    end
    return list
  end
  function db:update(key, row) row.org = 7 rows[key] = row end
]]

local function run_snippet_in_loop(block)
  local status, output = helper.luajit(([[
    local gorge = require "gorge"
    local cache = assert(gorge.new { namespace = "snippet", l1_size = "4m", redis = %q })
    gorge.run(function()
      %s
      do %s end
      print "ran to its end"
    end)
  ]]):format(redis.url, SNIPPET_NEEDS, block.code))
  assert.equal(0, status, output)
  assert.matches("ran to its end\n$", output)
end

local function run_snippet_in_nginx(block)
  local nginx = helper.nginx {
    values = { redis = redis.url },
    http = [[
      init_by_lua_block {
        cache = assert(require("gorge").new { namespace = "nginx-snippet", l1_size = "4m", redis = "{{redis}}" })
      }
    ]],
    server = "location / { content_by_lua_block { " .. SNIPPET_NEEDS .. "do " .. block.code .. " end ngx.print 'ran to its end' } }",
  }
  assert.equal("ran to its end", nginx:get("/").body, nginx:error_log())
  assert.same({}, nginx:log_lines())
  nginx:stop()
end

-- nginx ------------------------------------------------------------------------------------------------------------------

local function start_quick_start(block)
  local conf = replaced(block.code, "127.0.0.1:8080", "127.0.0.1:{{port}}")
  conf = replaced(conf, "redis://127.0.0.1:6379/0", redis.url)
  conf = replaced(conf, "http {", [[http {
    access_log off;
    lua_package_path "{{lua_path}};;";
    client_body_temp_path {{prefix}}/tmp; proxy_temp_path {{prefix}}/tmp; fastcgi_temp_path {{prefix}}/tmp;
    uwsgi_temp_path {{prefix}}/tmp; scgi_temp_path {{prefix}}/tmp;]])
  quick_start = helper.nginx { conf = conf }
  quick_start:get "/user/1" -- a host begins to listen with its first look, and what it stores before that may be forgotten once more
  helper.wait_until(function()
    return gorge.json({ "stat", "my-app", "--pid", quick_start.pid }).namespaces[1].subscribed
  end, { message = "the host does not listen" })
end

local function start_fragment(block)
  local main, http = block.code:match "^(.-)http {(.*)}%s*$"
  assert(main, "a fragment is directives, and then one http block")
  local modules = ""
  for _, other in ipairs(page.blocks) do
    if other.lang == "nginx" and other.mark == "" then
      modules = table.concat({ other.code:match "^(load_module [^\n]+\n)(load_module [^\n]+\n)" })
    end
  end
  main = replaced(main, "/opt/gorge/build", paths.build)
  http = replaced(replaced(http, "/opt/gorge/build", paths.build), "/opt/gorge", paths.root)
  local nginx = helper.nginx {
    conf = modules .. main .. "events {} http {" .. http .. [[
      access_log off;
      client_body_temp_path {{prefix}}/tmp; proxy_temp_path {{prefix}}/tmp; fastcgi_temp_path {{prefix}}/tmp;
      uwsgi_temp_path {{prefix}}/tmp; scgi_temp_path {{prefix}}/tmp;
      init_by_lua_block { cache = assert(require("gorge").new { l1_size = "2m" }) }
      server {
        listen 127.0.0.1:{{port}};
        location / { content_by_lua_block { ngx.print((cache:fetch("k", 60, function() return "found" end))) } }
      }
    }]],
    env = { GORGE_LIBRARY = false },
  }
  assert.equal("found", nginx:get("/").body)
  nginx:stop()
end

local function ask_location(block)
  local nginx = helper.nginx {
    http = 'init_by_lua_block { cache = assert(require("gorge").new { namespace = "location", l1_size = "4m" }) }',
    server = block.code,
  }
  local path = block.mark:match "^location (.*)$"
  assert.equal(200, nginx:get(path).status, nginx:error_log())
  assert.matches('gorge_loads_total{namespace="location"', nginx:get(path .. "?format=prometheus").body, 1, true)
  assert.same({}, nginx:log_lines())
  nginx:stop()
end

-- Commands ---------------------------------------------------------------------------------------------------------------

-- Runs a line of shell; the environment is that of a user who has just logged in.
local function shell(script, opts)
  local env = { GORGE_LIBRARY = false, GORGE_BUILD = false, BUILD = false, LUA_PATH = false, LUA_CPATH = false, MAKEFLAGS = false, MAKELEVEL = false }
  for name, value in pairs(opts.env or {}) do
    env[name] = value
  end
  local status, output = process.run { "sh", "-euc", script, cwd = opts.cwd or paths.root, env = env, timeout = opts.timeout or 60 }
  assert.equal(0, status, script .. "\n" .. output)
  return output
end

-- -n alone would run the lines that call make themselves; with a shell that does nothing nothing happens.
local function look_up_target(command)
  shell(command:gsub("^make", "make -n SHELL=/bin/true DEPS=no"), {})
  return ""
end

local function start_with_module(block)
  local name = assert(block.code:match "^load_module modules/(%S+%.so);%s*$")
  shell("make nginx-module DEPS=no BUILD=" .. paths.build, { timeout = 240 })
  local nginx = helper.nginx {
    workers = 1, module = paths.build .. "/" .. name,
    http = 'init_by_lua_block { cache = assert(require("gorge").new { namespace = "module", l1_size = "4m", redis = "' .. redis.url .. '" }) }',
    server = 'location / { content_by_lua_block { ngx.print(tostring(cache:set("k", "v", 60))) } }',
  }
  assert.equal("true", nginx:get("/").body)
  assert.matches("gorge: ngx_gorge_module moves the bytes of this worker", nginx:error_log(), 1, true)
  nginx:stop()
end

local function checkout_copy()
  local copy = helper.temp_dir()
  for _, name in ipairs { "Makefile", "core", "lua", "rockspec", "LICENSE" } do
    assert(process.run { "cp", "-r", paths.root .. "/" .. name, copy .. "/" } == 0)
  end
  return copy
end

local function make_rock(command)
  local tree = helper.temp_dir()
  -- Not optimised: what is tested is the command.
  shell(("%s --tree %s CFLAGS=-O0"):format(command, tree), { cwd = checkout_copy(), env = { HOME = helper.temp_dir() }, timeout = 240 })
  local cjson = assert(package.searchpath("cjson", package.cpath))
  local output = shell([[luajit -e 'print(require("gorge")._VERSION, package.searchpath("gorge", package.path))']], {
    cwd = helper.temp_dir(),
    env = {
      LUA_PATH = ("%s/share/lua/5.1/?.lua;%s/share/lua/5.1/?/init.lua"):format(tree, tree),
      LUA_CPATH = ("%s/lib/lua/5.1/?.so;"):format(tree) .. cjson:gsub("cjson%.so$", "?.so"),
    },
  })
  assert.equal(require("gorge")._VERSION .. "\t" .. tree .. "/share/lua/5.1/gorge/init.lua\n", output)
  return ""
end

local function curl(arguments)
  local method = arguments:match "%-X (%u+)"
  local uri = assert(arguments:match "http://127%.0%.0%.1:8080(%S*)", "curl of something else than the quick start")
  local rest = arguments:gsub("^curl", ""):gsub("%-X %u+", ""):gsub("%-s", ""):gsub("http://%S+", "")
  assert.equal("", rest:gsub("%s", ""), "an option of curl that this spec does not know")
  local response = assert(quick_start, "the quick start does not run"):request { uri = uri, method = method }
  assert.is_number(response.status, response.err)
  return response.body
end

-- A pattern, and what is done with a command that matches. `state.script` collects what later commands of the block need.
local COMMANDS = {
  { "^make$", function(_, state)
    shell("make BUILD=" .. paths.build, { timeout = 240 })
    state.substitute = { ["$PWD/build"] = paths.build }
    return ""
  end },
  { "^make [%l%d_-]+.*$", look_up_target },
  { "^sudo make [%l%d_-]+.*$", function(command) return look_up_target((command:gsub("^sudo ", ""))) end },
  { "^export %u[%u_]*=.*$", function(command, state)
    state.script = state.script .. command .. "\n"
    return ""
  end },
  { "^luajit .+$", function(command, state)
    local script = state.script .. command
    for from, to in pairs(state.substitute or {}) do
      script = replaced(script, from, to)
    end
    return shell(script, {})
  end },
  { "^sudo apt%-get install .+$", function(command)
    if not (helper.read_file "/etc/os-release" or ""):find('VERSION_ID="12"', 1, true) then
      command = command:gsub("luajit2", "luajit") -- as README says of Debian 13: also libluajit2-5.1-dev
    end
    return shell(command:gsub("^sudo apt%-get", "apt-get -s -q"), {}) and ""
  end },
  { "^sudo luarocks make .+$", function(command) return make_rock(command:gsub("^sudo ", "")) end },
  { "^curl .+$", curl },
  { "^redis%-cli .+$", function(command)
    return shell(command:gsub("redis%-cli", "redis-cli -e -p " .. redis.port), {})
  end },
}

-- Lines that end in a backslash go on; a comment ends a line.
local function commands_of(code)
  local commands = {}
  for line in code:gsub("\\\n%s*", ""):gmatch "[^\n]+" do
    local command = line:gsub("%s+#%s.*$", ""):match "^%s*(.-)%s*$"
    if command ~= "" then
      commands[#commands + 1] = command
    end
  end
  return commands
end

local function run_commands(block)
  local state, output = { script = "" }, {}
  for _, command in ipairs(commands_of(block.code)) do
    local run
    for _, known in ipairs(COMMANDS) do
      run = run or command:match(known[1]) and known[2]
    end
    assert(run, "there is no known way to run the command: " .. command)
    output[#output + 1] = run(command, state)
  end
  printed[block] = table.concat(output)
end

-- The command line looks at the quick start, and at nobody else's zone of that name. What goes on for ever is ended.
local function run_gorge(block)
  for _, command in ipairs(commands_of(block.code)) do
    local arguments = { env = {} }
    for word in assert(command:match "^gorge (.*)$", command):gsub(" > %S+$", ""):gmatch "%S+" do
      arguments[#arguments + 1] = word:match "^redis://" and redis.url or (word:gsub("^'(.*)'$", "%1"))
    end
    if command:find " my%-app" and not command:find "^gorge doctor" then
      arguments[#arguments + 1], arguments[#arguments + 2] = "--pid", quick_start.pid
    end
    if command:find " %-%-watch " or command:find "^gorge watch" or command:find "^gorge top" then
      arguments[#arguments + 1], arguments[#arguments + 2] = "--for", 0.1
    end
    quick_start:get "/user/7"
    local said = gorge.run(arguments)
    -- Other servers may have a zone of that name, which only a doctor cannot be told from.
    assert.is_true(said.status == 0 or command:find "^gorge doctor" and said.status == 2, command .. "\n" .. said.out .. said.err)
  end
end

local function compare_gorge(block)
  local function first_words(text)
    local words = {}
    for line in text:gmatch "[^\n]+" do
      words[#words + 1] = line:match("^%s*(.*)$"):gsub("%s%s.*$", ""):gsub("%d.*$", "")
    end
    return words
  end
  local arguments = { "my-app", "--pid", quick_start.pid }
  table.insert(arguments, 1, block.mark:match "^gorge (%l+)$")
  assert.same(first_words(block.code), first_words(gorge.run(arguments).out))
end

--- The user with few rights, as the page makes it, on the server of a port.
local function make_user(port)
  for _, other in ipairs(page.blocks) do
    local command = other.heading == "A user with few rights" and commands_of(other.code)[1]
    if command and command:match "ACL SETUSER my%-app" then
      shell(replaced(command, "redis-cli", "redis-cli -e -p " .. port), {})
    end
  end
end

-- Users of the sentinels and of the master, as the page makes them, are all that is needed.
local function run_for_sentinel(block)
  local set = helper.replicated { replicas = 1, sentinels = 1, quorum = 1 }
  local sentinel, master = set.sentinels[1], set.servers[1]
  for _, command in ipairs(commands_of(block.code)) do
    shell(replaced(command, "redis-cli -p 26379", "redis-cli -e -p " .. sentinel.port), {})
  end
  make_user(master.port)
  assert.equal("OK", master:command("ACL", "SETUSER", "my-app", "+role"))
  local status, output = helper.luajit(([[
    local cache = assert(require("gorge").new { namespace = "my-app", zone = "sentinel", l1_size = "4m", redis = { sentinels = { "127.0.0.1:%d" },
      master = %q, username = "my-app", password = "a-password", sentinel_username = "my-app", sentinel_password = "a-password" } })
    assert(cache:set("k", 1, 60))
    local deadline = os.time() + 10
    while not cache:stats().subscribed do cache:get "k" assert(os.time() < deadline, "not subscribed") end
  ]]):format(sentinel.port, set.name))
  assert.equal("", output)
  assert.equal(0, status)
  assert.same({}, sentinel:command("ACL", "LOG"))
  assert.same({}, master:command("ACL", "LOG"))
  set:stop()
end

-- What the page adds to that user is all that a cluster needs.
local function run_for_cluster(block)
  local cluster = helper.cluster { replicas = 0 }
  for _, server in ipairs(cluster.servers) do
    make_user(server.port)
    for _, command in ipairs(commands_of(block.code)) do
      shell(replaced(command, "redis-cli", "redis-cli -e -p " .. server.port), {})
    end
  end
  local status, output = helper.luajit(([[
    local cache = assert(require("gorge").new { namespace = "my-app", zone = "cluster", l1_size = "4m", redis = { cluster = { %q },
      username = "my-app", password = "a-password", timeout = 5, connect_timeout = 5 } })
    local deadline = os.time() + 10
    while not cache:stats().subscribed do cache:get "k" assert(os.time() < deadline, "not subscribed") end
    for i = 1, 100 do assert(cache:set("k" .. i, 1, 60, "t")) end
    assert(cache:invalidate_tags "t" and cache:clear())
    assert(cache:stats().l2_errors == 0)
  ]]):format(cluster:addresses(1)[1]))
  assert.equal("", output)
  assert.equal(0, status)
  for _, server in ipairs(cluster.servers) do
    assert.same({}, server:command("ACL", "LOG"))
  end
  cluster:stop()
end

-- Output -----------------------------------------------------------------------------------------------------------------

local function printed_before(block)
  local before
  for _, other in ipairs(page.blocks) do
    if other == block then
      break
    end
    before = other
  end
  return assert(printed[before], "the block before it printed nothing, or did not run")
end

local function compare_output(block)
  assert.equal(squeezed(block.code), squeezed(printed_before(block)))
end

local function compare_workers_output(block)
  assert.equal(squeezed(block.code), (squeezed(printed_before(block)):gsub("from l1\n", "from l0\n")))
end

-- What a line of the demo is about: its words up to the first figure, name or list of what differs from run to run.
local function key_of(line)
  return squeezed(line):gsub("%d[%d.,]*", "#"):gsub("%(.*$", ""):gsub(": .*$", ":"):gsub("/section/%S+", "/section/NAME")
    :match "^%s*(.-)%s*$"
end

-- A layer that answered nothing has no line.
local function keys_of(text)
  local keys = {}
  for line in text:gmatch "[^\n]+" do
    local key = key_of(line):gsub("[#%s]+%%?[#%s]*$", "")
    if key ~= "" and not key:match "^L%d" and not key:match "^the loader" then
      keys[#keys + 1] = key
    end
  end
  return keys
end

local function compare_demo(block)
  local status, output = process.run {
    paths.root .. "/examples/packages/demo", cwd = "/", timeout = 60,
    env = { TMPDIR = helper.temp_dir(), BUILD = paths.build, GORGE_DEMO_SECONDS = "0.5", REDIS = false },
  }
  assert.equal(0, status, output)
  assert.same(keys_of(block.code), keys_of(output))
end

-- The blocks -------------------------------------------------------------------------------------------------------------

local WAYS = {
  ["nginx"] = { start_quick_start },
  ["nginx fragment"] = { start_fragment },
  ["nginx module"] = { start_with_module },
  ["nginx location /metrics"] = { ask_location },
  ["nginx location /status"] = { ask_location },
  ["sh"] = { run_commands },
  ["sh gorge"] = { run_gorge },
  ["text gorge stat"] = { compare_gorge },
  ["sh sentinel"] = { run_for_sentinel },
  ["sh cluster"] = { run_for_cluster },
  ["lua"] = { run_program },
  ["python"] = { run_python },
  ["lua tls"] = { run_tls_program },
  ["lua snippet"] = { run_snippet_in_loop, run_snippet_in_nginx },
  ["text"] = { compare_output },
  ["text output, l0 may be l1"] = { compare_workers_output },
  ["text demo"] = { compare_demo },
}

describe("README.md", function()
  setup(function() redis = helper.redis() end)

  for _, block in ipairs(page.blocks) do
    local kind = block.lang .. (block.mark ~= "" and " " .. block.mark or "")
    it(("line %d (%s): the block %q works"):format(block.line, block.heading, kind), function()
      assert.is_table(WAYS[kind], "there is no known way to run a block of this kind")
      assert.is_not_equal("", block.code, "an empty block")
      for _, run in ipairs(WAYS[kind]) do
        run(block)
      end
    end)
  end

  it("asks for the quick start's layers as it says: the second answer comes from the cache", function()
    quick_start:get("/user/7") -- the blocks in between may have taken longer than its ttl
    assert.matches("from l[01]\n$", quick_start:get("/user/7").body)
    assert.same({}, quick_start:log_lines())
  end)

  it("names keys and channel in Redis as they are", function()
    local prefix = "{6:my-app:0}:"
    local names = {}
    for _, row in ipairs(markdown.table_under(page, "Redis").rows) do
      names[#names + 1] = row[1]:gsub("[`]", ""):gsub("L:N", "6:my-app"):gsub(":p}", ":0}") -- the partition
    end
    assert.same({
      prefix .. "E:v:<key>", prefix .. "E:l:<key>", prefix .. "E:t:<tag>", prefix .. "u:<nonce>", prefix .. "e", prefix .. "c", prefix .. "j",
      "gorge:6:my-app", "gorge:6:my-app:<id>",
    }, names)
    local epoch = redis:command("GET", prefix .. "e")
    assert.equal(-1, redis:command("PTTL", prefix .. "e"))
    for _, key in ipairs(redis:command("KEYS", "{6:my-app:0}*")) do
      assert.matches(key:find("}:%d") and "^{6:my%-app:0}:%d+:[vlt]:" or "^{6:my%-app:0}:[cjeu]", key)
    end
    assert.equal("v", redis:command("GET", prefix .. epoch .. ":v:user:7") and "v")
    assert.equal("string", redis:command("TYPE", prefix .. "c"))
    assert.equal("stream", redis:command("TYPE", prefix .. "j"))
    assert.equal(-1, redis:command("PTTL", prefix .. "c"))
    assert.equal(1, redis:command("PUBSUB", "NUMSUB", "gorge:6:my-app")[2])
    assert.matches('^G\1%z\4.*{"name":"the name of user:7"}$', redis:command("GET", prefix .. epoch .. ":v:user:7"))
  end)

  it("shows a Redis user that may do what gorge needs", function()
    local status, output = helper.luajit(([[
      local gorge = require "gorge"
      local function handle(zone)
        return assert(gorge.new { namespace = "my-app", zone = zone, l1_size = "4m",
          redis = { host = "127.0.0.1", port = %d, username = "my-app", password = "a-password", timeout = 5, connect_timeout = 5 } })
      end
      local a, b = handle "a", handle "b"
      local function load() return nil, nil, 60 end
      assert(a:set("acl", { 1 }, 60, { "t" }))
      assert(select(3, b:get "acl") == "l2")
      assert(select(3, b:fetch("new", 60, function() return 1, nil, { tags = { "late" } } end)) == "fn")
      assert(a:get "new" == 1)
      assert(a:touch("acl", 100) and b:touch("acl", 50) and a:touch("none", 1) == false)
      assert(b:update("acl", 60, function(old) old[1] = old[1] + 1 return old end, "t")[1] == 2)
      assert(a:invalidate_tags("t", "late"))
      assert(a:delete "acl")
      assert(a:clear())
      local deadline = os.time() + 10
      while b:get "new" or b:get "acl" do assert(os.time() < deadline, "b was not told") end
      gorge.run(function() -- a lease that is waited for, renewed and given back
        gorge.spawn(function() a:fetch("slow", 60, function() gorge.sleep(0.5) return nil, "no" end, nil, { lock_ttl = 0.2 }) end)
        gorge.spawn(function() gorge.sleep(0.05) assert(b:fetch("slow", 60, function() return 2 end) == 2) end)
      end)
      local stats = a:stats()
      assert(stats.l2_errors == 0 and stats.dropped_writes == 0, stats.redis_error or "errors")
      print "good"
    ]]):format(redis.port))
    assert.equal("good\n", output)
    assert.equal(0, status)
    local denied = redis:command("ACL", "LOG")
    assert.same({}, denied)
  end)
end)
