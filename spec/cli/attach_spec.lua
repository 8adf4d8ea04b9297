-- SPDX-License-Identifier: MIT
-- The command line, attaching: copies that are damaged, files that are none, other versions, other users; and the doctor.
local gorge = require "spec.cli.program"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local redis, n, zone, copy, entries

setup(function()
  redis = helper.redis()
  n = node.start { options = { redis = node.patient(redis), l1_size = "2m" } }
  zone = n.namespace
  node.wait_linked { n } -- a host that begins to listen forgets its L1
  n:run [[for i = 1, 500 do cache:set("key:" .. i, ("value %d "):format(i):rep(10), 600, { "tag:" .. i % 7 }) end]]
  entries = n:stats().entries
  for _, fd in ipairs { 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20 } do
    local path = ("/proc/%d/fd/%d"):format(n.nginx.pid, fd)
    local _, link = process.run { "readlink", path }
    if link:match("memfd:gorge:" .. zone:gsub("%-", "%%-")) then
      copy = process.read_file(path)
    end
  end
  assert(copy and #copy == 2 * 1048576, "the zone's memory was not found")
end)

local function file_of(bytes)
  local path = helper.temp_dir() .. "/zone"
  process.write_file(path, bytes)
  return path
end

local function patched(offset, bytes)
  return file_of(copy:sub(1, offset) .. bytes .. copy:sub(offset + #bytes + 1))
end

describe("a copy of a zone", function()
  it("is read like the zone", function()
    local path = file_of(copy)
    local told, status = gorge.json { "stat", path }
    assert.equal(0, status)
    assert.same({ zone, entries }, { told.zone, told.namespaces[1].entries })
    told, status = gorge.json { "peek", path, "key:42", "--value" }
    assert.same({ 0, ("value 42 "):rep(10) }, { status, told.value })
    assert.matches("a file", gorge.run({ "stat", path }).out, 1, true)
  end)

  it("of another version is refused, and both versions are named", function()
    local said = gorge.run { "stat", patched(40, "\99\0\0\0\0\0\0\0") }
    assert.equal(3, said.status)
    assert.matches("^gorge: .*: the zone has layout version 99, this gorge reads %d+\n$", said.err)
    assert.matches("a layout from before version", gorge.run({ "stat", patched(40, ("\0"):rep(8)) }).err, 1, true)
    assert.matches("laid out by another build", gorge.run({ "stat", patched(8, ("\1"):rep(8)) }).err, 1, true)
  end)

  it("that is damaged is refused, or shown as far as it goes; never is it a crash", function()
    for _, path in ipairs { patched(16, ("\255"):rep(8)), patched(48, ("\255"):rep(8)), patched(140, "\255"), file_of(copy:sub(1, 1048576)) } do
      local said = gorge.run { "stat", path }
      assert.equal(3, said.status, said.out)
      assert.matches("the zone is damaged: ", said.err, 1, true)
    end
    -- Behind the header anything may stand.
    math.randomseed(7)
    for round = 1, 6 do
      local pieces = { copy:sub(1, 256) }
      for at = 257, #copy, 4096 do
        local piece = copy:sub(at, at + 4095)
        if math.random() < 0.4 then
          local noise = {}
          for i = 1, 256 do
            noise[i] = string.char(math.random(0, 255))
          end
          local from = math.random(1, #piece)
          piece = (piece:sub(1, from - 1) .. table.concat(noise) .. piece:sub(from + 256)):sub(1, #piece)
        end
        pieces[#pieces + 1] = round > 4 and ("\255"):rep(#piece) or piece
      end
      local path = file_of(table.concat(pieces))
      for _, arguments in ipairs { { "stat", path }, { "peek", path, "key:42", "-n", zone } } do
        local said = gorge.run(arguments)
        assert.is_true(said.status >= 0 and said.status <= 3, said.err)
        assert.is_nil(said.err:find("traceback", 1, true), said.err)
      end
    end
  end)
end)

describe("what is no zone", function()
  it("is refused with a sentence", function()
    for path, problem in pairs {
      ["/nonexistent/zone"] = "it cannot be opened: No such file or directory",
      ["/tmp/"] = "it is not a file",
      ["/dev/zero"] = "it is not a file",
      [helper.paths.root .. "/README.md"] = "it is not a zone of gorge, or not a complete one",
      [file_of ""] = "it is not a zone of gorge: 0 bytes are too few",
      [helper.paths.library] = "it is not a zone of gorge",
    } do
      for _, command in ipairs { { "stat", path }, { "peek", path, "k" } } do
        local said = gorge.run(command)
        assert.equal(3, said.status)
        assert.equal("", said.out)
        assert.matches(problem, said.err, 1, true)
      end
    end
  end)
end)

describe("a user without rights", function()
  it("is told whose processes they are, and what to do", function()
    if not process.is_root() then
      return pending "needs root, to become somebody else"
    end
    -- The checkout may lie where others cannot go.
    local place = helper.temp_dir()
    process.run { "cp", "-r", helper.paths.root .. "/lua", place .. "/lua" }
    process.run { "cp", helper.paths.build .. "/lua/gorge/ffi/cdef.lua", place .. "/lua/gorge/ffi/cdef.lua" }
    process.run { "cp", helper.paths.library, place .. "/libgorge.so" }
    process.run { "chmod", "-R", "a+rX", place }
    local function as_nobody(...)
      local status, output = process.run {
        env = { GORGE_LIBRARY = place .. "/libgorge.so", LUA_PATH = place .. "/lua/?.lua;" .. place .. "/lua/?/init.lua;;" }, cwd = "/",
        "setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", "luajit", place .. "/lua/gorge/cli/gorge", ...,
      }
      return status, output
    end
    local status, output = as_nobody("stat", zone)
    assert.equal(3, status, output)
    assert.matches("among the processes that this user may look at, and %d+ belong to other users: run it as the user of the workers, or as root",
      output)
    status, output = as_nobody "zones"
    assert.equal(1, status, output)
    assert.matches("no zone: %d+ processes of other users cannot be looked at; run it as root", output)
    local path = file_of(copy)
    process.run { "chmod", "600", path }
    status, output = as_nobody("stat", path)
    assert.equal(3, status, output)
    assert.matches("it cannot be opened: Permission denied", output, 1, true)
  end)
end)

describe("gorge doctor", function()
  local function check(told, name)
    for _, found in ipairs(told.checks) do
      if found.name == name then
        return found
      end
    end
  end

  it("finds what is there", function()
    helper.wait_until(function() return n:stats().subscribed end)
    local told, status = gorge.json { "doctor", zone, "--redis", redis.url }
    assert.equal(0, status, require("cjson").encode(told))
    assert.is_true(told.ok)
    assert.equal(require "gorge.version", told.version)
    for _, name in ipairs {
      "luajit", "library", "cjson", "memory", "/dev/shm", "nginx", "ngx_lua", "nginx's LuaJIT", "lua-resty-core", "redis", "redis version",
      "redis scripts", "zone " .. zone .. ", namespace " .. zone,
    } do
      local found = check(told, name) or error(name .. " was not checked")
      assert.equal("ok", found.status, name .. ": " .. found.text)
    end
    assert.matches("^0%.10%.%d+$", check(told, "ngx_lua").text)
    assert.matches("OpenResty's branch", check(told, "luajit").text, 1, true)
    assert.matches("^Redis %d+%.", check(told, "redis version").text)
    assert.matches("append-only file off", check(told, "redis persistence").text, 1, true)
    assert.matches(" of 25 round trips", check(told, "redis latency").text, 1, true)
    assert.truthy(check(told, "lua_max_running_timers"))
    assert.truthy(check(told, "zone " .. zone .. ": open files"))
    local said = gorge.run { "doctor", zone }
    assert.equal(0, said.status)
    assert.matches("note  redis +not looked at: %-%-redis URL names it", said.out)
  end)

  it("finds what is wrong, and tells no password", function()
    local secret = helper.redis { password = "s3cret", config = "maxmemory 64mb\nmaxmemory-policy allkeys-lru" }
    local told, status = gorge.json { "doctor", zone, env = { GORGE_REDIS = secret.url } }
    assert.equal(0, status)
    assert.matches("of 64.0 MB, maxmemory-policy allkeys-lru: any is safe", check(told, "redis memory").text, 1, true)
    told, status = gorge.json { "doctor", zone, "--redis", "redis://:wrong-secret@127.0.0.1:" .. secret.port }
    assert.same({ 1, false, "bad" }, { status, told.ok, check(told, "redis").status })
    assert.is_nil(require("cjson").encode(told):find("wrong-secret", 1, true))
    secret:command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+ping", "+auth")
    told, status = gorge.json { "doctor", zone, "--redis", "redis://limited:pw@127.0.0.1:" .. secret.port }
    assert.same({ 1, "note", "bad" }, { status, check(told, "redis info").status, check(told, "redis scripts").status })
    secret:kill()
    told, status = gorge.json { "doctor", zone, "--redis", secret.url }
    assert.same({ 1, "bad" }, { status, check(told, "redis").status })
    assert.matches("Connection refused", check(told, "redis").text, 1, true)
    assert.is_nil(check(told, "redis").text:find("s3cret", 1, true))
    told = gorge.json { "doctor", zone, "--nginx", "/nonexistent/nginx" }
    assert.same({ "bad", "there is no /nonexistent/nginx" }, { check(told, "nginx").status, check(told, "nginx").text })
  end)

  it("looks at all nodes of a cluster", function()
    local cluster = helper.cluster { password = "s3cret" }
    local function url(server) return ("redis://:s3cret@127.0.0.1:%d"):format(server.port) end
    local function found_of(told, server) return check(told, "redis node 127.0.0.1:" .. server.port) end
    local told, status = gorge.json { "doctor", zone, "--redis", url(cluster.servers[6]) } -- a replica says as much as a master
    assert.equal(0, status, require("cjson").encode(told))
    assert.is_nil(check(told, "redis role"))
    assert.same({ "ok", "state ok, 3 masters with slots of 6 nodes, 16,384 slots of 16,384 served" },
      { check(told, "redis cluster").status, check(told, "redis cluster").text })
    for i, server in ipairs(cluster.servers) do
      local found = found_of(told, server) or error("the node was not looked at: " .. require("cjson").encode(told))
      assert.equal("ok", found.status, found.text)
      assert.matches(i <= 3 and "^master, answers in " or "^replica, answers in ", found.text)
    end
    cluster:kill(cluster.servers[1])
    cluster:wait_replaced(cluster.servers[1])
    told = gorge.json { "doctor", zone, "--redis", url(cluster.servers[2]) }
    assert.equal("warn", found_of(told, cluster.servers[1]).status)
    assert.matches("Connection refused", found_of(told, cluster.servers[1]).text, 1, true)
    assert.matches("without a replica", found_of(told, cluster.servers[4]).text, 1, true)
    cluster.servers[4]:kill()
    helper.wait_until(function()
      told, status = gorge.json { "doctor", zone, "--redis", url(cluster.servers[2]) }
      return check(told, "redis cluster").status == "bad"
    end, { message = "that the cluster is down was not noticed" })
    assert.same({ 1, "bad" }, { status, found_of(told, cluster.servers[4]).status })
    assert.is_nil(require("cjson").encode(told):find("s3cret", 1, true))
    cluster:stop()
  end)

  it("sees a replica, and a zone whose Redis is away", function()
    local replica = helper.redis { config = "replicaof 127.0.0.1 " .. redis.port }
    local told, status = gorge.json { "doctor", zone, "--redis", replica.url }
    assert.same({ 1, "bad" }, { status, check(told, "redis role").status })
    redis:kill()
    helper.wait_until(function()
      told, status = gorge.json { "doctor", zone }
      return check(told, "zone " .. zone .. ", namespace " .. zone).status == "bad"
    end, { message = "nobody notices that Redis is away" })
    assert.equal(1, status)
    assert.matches("nothing confirmed from other nodes for ", check(told, "zone " .. zone .. ", namespace " .. zone).text, 1, true)
  end)
end)
