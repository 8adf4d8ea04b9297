-- SPDX-License-Identifier: MIT
-- TLS to Redis, through the pump of nginx and through the library's own sockets: who is taken for Redis and who is not, in which
-- words, and the whole life of such a connection.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local certificates = require "spec.support.certificates"
local cjson = require "cjson"
local gorge = require "gorge"

local SECRET = "s3cret-Pa55word"
local NAMES = "DNS:redis.example,DNS:localhost,IP:127.0.0.1"

local dir = helper.temp_dir()
local authority = certificates.authority(dir, "authority")
local stranger = certificates.authority(dir, "stranger")
local server = authority:issue("server", { alt = NAMES })
local client = authority:issue "client"
local outsider = stranger:issue "outsider"

--- How Redis is to show itself; clients: "yes" if they need certificates.
local function shown(pair, clients)
  return { cert = pair.cert, key = pair.key, ca = authority.ca, clients = clients }
end

local function options_of(redis, tls, host)
  return { host = host or "127.0.0.1", port = redis.tls_port, password = redis.opts.password, tls = tls, connect_timeout = 5, timeout = 5 }
end

--- Writes through nginx's pump; returns what set returned, what stats say, and all that was logged.
local function in_nginx(redis_options)
  local n = node.start { workers = 1, log_level = "debug", options = { redis = redis_options } }
  local ok, err, stats = n:run [[
    local ok, err = cache:set("k", 1, 60)
    local stats = cache:stats()
    while stats.redis == "connecting" do -- again, by now
      ngx.sleep(0.01)
      stats = cache:stats()
    end
    return ok, err, require("cjson").encode { redis = stats.redis, redis_error = stats.redis_error }
  ]]
  local log = n.nginx:error_log()
  n.nginx:stop()
  return ok, err, cjson.decode(stats), log
end

--- The same in this process.
local function in_a_program(redis_options)
  local cache = assert(gorge.new { namespace = helper.unique_name "tls", redis = redis_options })
  local ok, err = cache:set("k", 1, 60)
  local stats = helper.wait_until(function()
    local told = cache:stats()
    if told.redis == "connecting" then -- again, by now
      cache:get "k"
    end
    return told.redis ~= "connecting" and told
  end)
  cache:close()
  return ok, err, stats, ""
end

local WAYS = { ["nginx"] = in_nginx, ["a program"] = in_a_program }

local function assert_accepted(redis_options)
  for way, write in pairs(WAYS) do
    local ok, err, stats = write(redis_options)
    assert.same({ true, "ready" }, { ok, stats.redis }, way .. ": " .. tostring(err))
  end
end

local readme = assert(helper.read_file(helper.paths.root .. "/README.md"))

--- Refused everywhere, in these words, of which README tells.
local function assert_refused(redis_options, reason)
  assert.is_not_nil(readme:find("`" .. reason, 1, true), "README.md does not know: " .. reason)
  for way, write in pairs(WAYS) do
    local ok, err, stats, log = write(redis_options)
    assert.is_nil(ok, way)
    assert.equal("down", stats.redis, way)
    assert.equal(reason, stats.redis_error:sub(1, #reason), way)
    assert.is_not_nil(err:find(reason, 1, true), way .. ": " .. err)
    for _, text in ipairs { err, log, cjson.encode(stats.redis_error) } do
      assert.is_nil(text:find(SECRET, 1, true))
      assert.is_nil(text:find("PRIVATE", 1, true))
    end
  end
end

describe("a server with TLS", function()
  local redis
  setup(function()
    redis = helper.redis { password = SECRET, tls = shown(server) }
  end)

  it("is taken by its address", function()
    assert_accepted(options_of(redis, { ca = authority.ca }))
  end)

  it("is taken by its name", function()
    assert_accepted(options_of(redis, { ca = authority.ca }, "localhost"))
  end)

  it("is taken by the name it should have", function()
    assert_accepted(options_of(redis, { ca = authority.ca, server_name = "redis.example" }))
  end)

  it("is not taken for another", function()
    local other = { ca = authority.ca, server_name = "cache.example" }
    assert.is_true(#readme:match "is for another name than: redis.example" > 0)
    for way, write in pairs(WAYS) do
      local ok, _, stats = write(options_of(redis, other))
      assert.is_nil(ok)
      assert.equal("TLS: the server's certificate is for another name than: cache.example", stats.redis_error, way)
    end
  end)

  it("is not taken when nobody knows its CA, unless that is asked for", function()
    local unknown = "TLS: the server's certificate is from an unknown CA (redis.tls.ca): "
    assert_refused(options_of(redis, { ca = stranger.ca }), unknown)
    assert_refused(options_of(redis, true), unknown)
    assert_accepted(options_of(redis, { verify = false, server_name = "cache.example" }))
  end)

  it("is a URL's, too", function()
    local url = ("rediss://:%s@127.0.0.1:%d/0"):format(SECRET, redis.tls_port)
    local cache = assert(gorge.new { namespace = helper.unique_name "url", redis = url })
    helper.wait_until(function()
      assert.is_nil((cache:set("k", 1, 60)))
      return (cache:stats().redis_error or ""):find("^TLS: the server's certificate is from an unknown CA")
    end)
    cache:close()
  end)

  it("is asked by the checks of the command line", function()
    local function open(opts)
      return require("gorge.ffi.asker").open(require("gorge.options").parse({ redis = opts }).redis)
    end
    local asker = assert(open(options_of(redis, { ca = authority.ca })))
    assert.equal("PONG", asker:ask "PING")
    assert.equal("value", asker:ask("EVAL", "return 'value'", "0"))
    local unknown, err = open(options_of(redis, true))
    assert.is_nil(unknown)
    assert.matches("^TLS: the server's certificate is from an unknown CA", err)
    unknown, err = open(options_of({ tls_port = redis.tls_port, opts = { password = "wrong" } }, { ca = authority.ca }))
    assert.same({ nil, "authentication refused" }, { unknown, err })
  end)

  it("is none on its other port", function()
    local plain = options_of(redis, { ca = authority.ca })
    plain.port, plain.connect_timeout = redis.port, 0.3
    local ways = { "TLS: the server does not speak TLS", "the TLS handshake took too long: is the port one for TLS?" }
    for way, write in pairs(WAYS) do
      local ok, _, stats = write(plain)
      assert.is_nil(ok, way)
      assert.is_true(stats.redis_error == ways[1] or stats.redis_error == ways[2], way .. ": " .. stats.redis_error)
    end
  end)
end)

it("a certificate that has expired is refused", function()
  local old = authority:issue("old", { alt = NAMES, expired = true })
  local redis = helper.redis { tls = shown(old) }
  assert_refused(options_of(redis, { ca = authority.ca }), "TLS: the server's certificate has expired")
end)

it("a server that asks for certificates gets the right one", function()
  local redis = helper.redis { password = SECRET, tls = shown(server, "yes") }
  assert_accepted(options_of(redis, { ca = authority.ca, cert = client.cert, key = client.key }))
  assert_refused(options_of(redis, { ca = authority.ca }), "TLS: Redis requires a client certificate (redis.tls.cert and redis.tls.key)")
  assert_refused(options_of(redis, { ca = authority.ca, cert = outsider.cert, key = outsider.key }),
    "TLS: Redis does not accept the client certificate (redis.tls.cert): ")
end)

describe("files that will not do", function()
  local function refusal(tls)
    local cache, err = gorge.new { namespace = helper.unique_name "files", redis = { host = "127.0.0.1", tls = tls } }
    assert.is_nil(cache)
    return err
  end

  it("are told at the start", function()
    assert.equal("gorge: redis.tls.ca: No such file or directory: " .. dir .. "/nowhere.pem", refusal { ca = dir .. "/nowhere.pem" })
    assert.matches("^gorge: redis.tls.key: not the key of redis.tls.cert: ", refusal { cert = client.cert, key = outsider.key })
    assert.matches("^gorge: redis.tls.cert: no certificate in PEM form: ", refusal { cert = client.key, key = client.key })
  end)

  it("keep nginx from starting", function()
    local n = node.start { wait = false, options = { redis = { host = "127.0.0.1", tls = { ca = dir .. "/nowhere.pem" } } } }
    helper.wait_until(function() return n.nginx:error_log():find("redis.tls.ca: No such file", 1, true) end)
  end)

  it("are told when only the workers may not read them", function()
    if not helper.process.is_root() then
      return pending "needs root, to start workers of another user"
    end
    local hidden = authority:issue "hidden"
    assert.equal(0, (helper.process.run { "chmod", "600", hidden.key }))
    local redis = helper.redis { tls = shown(server, "yes") }
    local n = node.start {
      workers = 1, user = "nobody nogroup",
      options = { redis = options_of(redis, { ca = authority.ca, cert = hidden.cert, key = hidden.key }) },
    }
    assert.is_nil((n:run [[return cache:set("k", 1, 60)]]))
    assert.equal("TLS: redis.tls.key: Permission denied: " .. hidden.key, n:stats().redis_error)
    assert.equal(0, (helper.process.run { "chmod", "644", hidden.key }))
    helper.wait_until(function() return n:run [[return cache:set("k", 1, 60)]] end)
  end)
end)

describe("two nodes with TLS", function()
  local redis, a, b
  local function start(options)
    redis = helper.redis { password = SECRET, tls = shown(server, "yes") }
    options = options or {}
    options.redis = options.redis or options_of(redis, { ca = authority.ca, cert = client.cert, key = client.key })
    a, b = node.pair(redis, { options = options, log_level = "debug" })
  end

  local function shared()
    local key = helper.unique_name "shared"
    assert.equal("value of " .. key, (a:run([[return cache:fetch(..., 60, load)]], key)))
    local value, err, source = b:run([[return cache:fetch(..., 60, load)]], key)
    return value == "value of " .. key and err == nil and source == "l2"
  end

  local function assert_heals()
    helper.wait_until(shared, { message = "the nodes do not share values", interval = 0.05 })
    helper.wait_until(function() return a:run [[return cache:set("heard", 1, 60)]] end)
    for i = 2, 4 do
      helper.wait_until(function() return a:run([[return cache:set("heard", ..., 60)]], i) end)
      helper.wait_until(function() return b:run [[return cache:get "heard"]] == i end, { message = "the nodes do not hear one another" })
    end
  end

  it("share values and hear one another", function()
    start()
    assert.is_true(shared())
    a:run [[return cache:set("tagged", "old", 60, "tag")]]
    assert.equal("old", b:run [[return cache:get "tagged"]])
    assert.is_true((a:run [[return cache:invalidate_tags "tag"]]))
    helper.wait_until(function() return b:run [[return cache:get "tagged"]] == nil end)
    assert.is_true((a:run [[return cache:set("large", ("x"):rep(1000000), 60)]]))
    assert.equal(1000000, b:run [[return #cache:get "large"]])
    for _, n in ipairs { a, b } do
      n:assert_clean_log()
      assert.is_nil(n.nginx:error_log():find(SECRET, 1, true))
    end
  end)

  it("renew a lease while fn runs", function()
    start { lock_ttl = 1 }
    local running = a:start(1, [[return cache:fetch("slow", 60, load_at_gate)]])
    a:wait_count "at loader"
    local waiting = b:start(1, [[return cache:fetch("slow", 60, load)]])
    helper.sleep(2.1) -- more than two lives of a lease
    a:run [[open "loader"]]
    assert.equal("value of slow", running:results()[1][1])
    assert.equal("value of slow", waiting:results()[1][1])
    assert.equal(1, a:counted "loads" + b:counted "loads")
  end)

  it("answer while Redis is away, and find it again", function()
    start()
    redis:kill()
    for i = 1, 3 do
      local value, err, source = a:run([[return cache:fetch("away " .. ..., 60, load)]], i)
      assert.same({ "value of away " .. i, nil, "fn" }, { value, err, source })
    end
    redis:up()
    assert_heals()
  end)

  it("stay away from a server with a wrong certificate, and find it again when it has the right one", function()
    start()
    redis:kill()
    redis.opts.tls = shown(outsider, "yes")
    redis:configure()
    redis:up()
    helper.wait_until(function()
      local value, err = a:run([[return cache:fetch(..., 60, load)]], helper.unique_name "stranger")
      assert(value ~= nil and err == nil)
      return (a:stats().redis_error or ""):find("unknown CA", 1, true)
    end, { interval = 0.05 })
    redis:kill()
    redis.opts.tls = shown(authority:issue("renewed", { alt = NAMES }), "yes")
    redis:configure()
    redis:up()
    assert_heals()
  end)

  it("take a connection that is cut or stands still in the handshake for a Redis that is away", function()
    redis = helper.redis { tls = shown(server) }
    local relay = helper.relay { port = redis.tls_port }
    local options = options_of(redis, { ca = authority.ca })
    options.port, options.connect_timeout = relay.port, 0.4
    a, b = node.pair(redis, { options = { redis = options } })
    local function while_away(reason)
      helper.wait_until(function()
        local key = helper.unique_name "away"
        local since = helper.now()
        local value, err = a:run([[return cache:fetch(..., 60, load)]], key)
        assert.same({ "value of " .. key }, { value, err })
        assert.is_true(helper.now() - since < 5 + 1)
        return (a:stats().redis_error or ""):find(reason)
      end, { interval = 0.02, timeout = 20, message = function() return "no '" .. reason .. "' but " .. tostring(a:stats().redis_error) end })
    end
    relay:cut()
    while_away "."
    relay:heal()
    assert_heals()
    redis:kill()
    relay:black_hole "down" -- what the server says is lost: the handshake stands still in the middle
    redis:up()
    while_away "the TLS handshake took too long"
    relay:heal()
    assert_heals()
  end)
end)

it("a program may end at any moment", function()
  local redis = helper.redis { tls = shown(server) }
  local program = ([[
    local gorge = require "gorge"
    local cache = gorge.new { namespace = "ending", redis = { host = "127.0.0.1", port = %d, tls = { ca = %q } } }
    cache:set("k", 1, 60)
    local till = tonumber(os.getenv "STEPS")
    for _ = 1, till do cache:get "nothing" end
    os.exit(7)
  ]]):format(redis.tls_port, authority.ca)
  for i = 1, 8 do
    local status, output = helper.luajit(program, { env = { STEPS = i * i * 4 } })
    assert.same({ 7, "" }, { status, output })
  end
end)
