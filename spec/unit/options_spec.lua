-- SPDX-License-Identifier: MIT
-- Options: defaults, what is accepted, and the text of each refusal.

local options = require "gorge.options"

local function parse(opts)
  return options.parse(opts, 1)
end

---The message without the position in front of it.
local function message_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_string(err)
  return (err:gsub("^[^%s]+:%d+: ", ""))
end

local function refusal(opts)
  return message_of(parse, opts)
end

local BAD_NUMBERS = { 0 / 0, math.huge, -math.huge, -1, "10", true, {}, print }

describe("options.parse", function()
  describe("without options", function()
    it("gives the documented defaults", function()
      for _, opts in ipairs { false, {} } do
        assert.same({
          namespace = "gorge", zone = "gorge", l1_size = 67108864, l1_ttl = 300, l1_ttl_ms = 300000, l1_objects = 10000,
          freshness_bound = 5, freshness_bound_ms = 5000, disconnected_ttl = 30,
          negative_cache_ttl = 60, negative_cache_ttl_ms = 60000, lock_ttl = 10, lock_ttl_ms = 10000, lock_sleep = 0.05, lock_sleep_ms = 50,
          lock_retries = 10, wait_timeout = 30, wait_timeout_ms = 30000, on_lock_timeout = "run", expiration_jitter = 0,
          stale_if_error = 0, stale_if_error_ms = 0, stale_while_revalidate = false, stale_ttl = 60, stale_ttl_ms = 60000,
          early_refresh = false, refresh_timeout = 10, refresh_timeout_ms = 10000,
          cache_read_disabled = false, cache_delete_disabled = false, serializer = "auto",
          circuit_breaker = false, compress = false, host = "auto",
        }, parse(opts or nil))
      end
    end)
  end)

  it("makes a new table and leaves the given one alone", function()
    local given = { l1_size = "2m", redis = { host = "h" } }
    local out = parse(given)
    assert.are_not.equal(given, out)
    assert.are_not.equal(given.redis, out.redis)
    assert.same({ l1_size = "2m", redis = { host = "h" } }, given)
  end)

  it("raises at the line of the caller", function()
    local function new(opts)
      local parsed = options.parse(opts, 2)
      return parsed
    end
    local line
    local ok, err = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      new { l1_ttl = -1 }
    end)
    assert.is_false(ok)
    assert.matches("options_spec.lua:" .. line .. ": gorge: option 'l1_ttl' must be", err)
    ok, err = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local parsed = options.parse({ l1_ttl = -1 }, 1)
      return parsed
    end)
    assert.is_false(ok)
    assert.matches("options_spec.lua:" .. line .. ": gorge: ", err)
    ok, err = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      new(5)
    end)
    assert.is_false(ok)
    assert.matches("options_spec.lua:" .. line .. ": gorge: the options must be a table, got 5$", err)
  end)

  describe("names", function()
    it("are letters, digits and a few marks", function()
      for _, name in ipairs { "a", "my-app", "a.b:c_d-9", "_x", "9", ("x"):rep(64) } do
        assert.equal(name, parse({ namespace = name }).namespace)
        assert.equal(name, parse({ zone = name }).zone)
      end
    end)

    it("may differ: the zone is the namespace unless it is given", function()
      assert.equal("app", parse({ namespace = "app" }).zone)
      local out = parse { namespace = "app", zone = "shared" }
      assert.same({ "app", "shared" }, { out.namespace, out.zone })
    end)

    it("are refused otherwise", function()
      for _, name in ipairs { "", "a b", "a{b}", "a/b", "é", "a\n", ".a", "-a", ("x"):rep(65), 5, true, {} } do
        assert.matches("^gorge: option 'namespace' must be 1 to 64 letters, digits", refusal { namespace = name })
        assert.matches("^gorge: option 'zone' must be 1 to 64 letters, digits", refusal { zone = name })
      end
      assert.matches('got "a\\x0a"$', refusal { zone = "a\n" })
    end)
  end)

  describe("l1_size", function()
    it("is bytes or a string with a unit", function()
      local sizes = {
        [2097152] = 2097152, ["2m"] = 2097152, ["2048k"] = 2097152, ["64m"] = 67108864, ["64M"] = 67108864, ["1g"] = 1073741824,
        ["1024g"] = 2 ^ 40, ["3000000"] = 3000000, [2 ^ 40] = 2 ^ 40, ["1G"] = 1073741824,
      }
      for given, bytes in pairs(sizes) do
        assert.equal(bytes, parse({ l1_size = given }).l1_size)
      end
    end)

    it("is refused otherwise", function()
      local bad = { 0, -1, 0 / 0, math.huge, 2097151, 2 ^ 40 + 1, 2097152.5, "1m", "2047k", "1025g", "64mb", "64 m", "m", "", "-64m", "1.5g", "1t",
        "99999999999999999999g", true, {}, print }
      for _, size in ipairs(bad) do
        assert.matches("^gorge: option 'l1_size' must be a number of bytes or a string such as .* from 2m to 1024g, got ", refusal { l1_size = size })
      end
      assert.matches('got "64mb"$', refusal { l1_size = "64mb" })
      assert.matches("got nan$", refusal { l1_size = 0 / 0 })
      assert.matches("got a function$", refusal { l1_size = print })
    end)
  end)

  describe("times", function()
    local TIMES = {
      l1_ttl = 315360000, negative_cache_ttl = 315360000, lock_ttl = 3600, lock_sleep = 60, wait_timeout = 86400, stale_ttl = 315360000,
      refresh_timeout = 3600, soft_timeout = 86400,
    }

    it("are seconds, and whole milliseconds rounded up", function()
      for name, max in pairs(TIMES) do
        for seconds, ms in pairs { [0.5] = 500, [2.007] = 2007, [1.1] = 1100, [0.0101] = 11, [0.000001] = 1, [max] = max * 1000 } do
          local out = parse { [name] = seconds }
          assert.equal(seconds, out[name])
          assert.equal(ms, out[name .. "_ms"])
        end
      end
    end)

    it("are refused when they are no number, not above zero or too long", function()
      for name, max in pairs(TIMES) do
        local pattern = "^gorge: option '" .. name .. "' must be a number of seconds greater than 0 and at most " .. max .. ", got "
        for _, value in ipairs(BAD_NUMBERS) do
          assert.matches(pattern, refusal { [name] = value })
        end
        assert.matches(pattern .. "0$", refusal { [name] = 0 })
        assert.matches(pattern, refusal { [name] = max + 1 })
      end
    end)
  end)

  describe("counts", function()
    it("are whole numbers in their range", function()
      assert.equal(0, parse({ l1_objects = 0 }).l1_objects)
      assert.equal(1, parse({ lock_retries = 1 }).lock_retries)
      for name, range in pairs { l1_objects = { 0, 10000000 }, lock_retries = { 1, 1000000 } } do
        local pattern = "^gorge: option '" .. name .. "' must be an integer from " .. range[1] .. " to " .. range[2] .. ", got "
        for _, value in ipairs(BAD_NUMBERS) do
          assert.matches(pattern, refusal { [name] = value })
        end
        for _, value in ipairs { range[1] - 1, range[2] + 1, 1.5 } do
          assert.matches(pattern, refusal { [name] = value })
        end
      end
    end)
  end)

  describe("early_refresh", function()
    it("is a boolean or a beta", function()
      for given, beta in pairs { [true] = 1, [0.5] = 0.5, [100] = 100 } do
        assert.equal(beta, parse({ early_refresh = given }).early_refresh)
      end
      assert.is_false(parse({ early_refresh = false }).early_refresh)
      for _, value in ipairs { 0, -1, 101, 0 / 0, "yes", {} } do
        local expected = "^gorge: option 'early_refresh' must be a boolean or a number greater than 0 and at most 100, got "
        assert.matches(expected, refusal { early_refresh = value })
      end
    end)
  end)

  describe("words", function()
    it("are taken as listed", function()
      for name, words in pairs {
        on_lock_timeout = { "run", "stale", "error" }, host = { "auto", "nginx", "loop", "blocking" }, serializer = { "auto", "json", "msgpack", "string" },
      } do
        for _, word in ipairs(words) do
          assert.equal(word, parse({ [name] = word })[name])
        end
        for _, word in ipairs { "", "AUTO", "nope", 5, true, print } do
          assert.matches("^gorge: option '" .. name .. "' must be one of \"" .. words[1] .. '", ', refusal { [name] = word })
        end
      end
    end)

    it("of later versions are refused as such", function()
      for name, words in pairs { host = { "cqueues", "luv" } } do
        for _, word in ipairs(words) do
          local pattern = "^gorge: option '" .. name .. "': \"" .. word .. '" is not supported by this version, it takes one of "'
          assert.matches(pattern, refusal { [name] = word })
        end
      end
    end)
  end)

  describe("serializer as a table", function()
    it("needs name, encode and decode", function()
      local given = { name = "mine", encode = tostring, decode = tonumber }
      assert.same(given, parse({ serializer = given }).serializer)
      for _, field in ipairs { "name", "encode", "decode" } do
        local part = { name = "mine", encode = tostring, decode = tonumber }
        part[field] = nil
        assert.equal("gorge: option 'serializer' needs '" .. field .. "' when it is a table", refusal { serializer = part })
        part[field] = 5
        assert.matches("^gorge: option 'serializer." .. field .. "' must be .*, got 5$", refusal { serializer = part })
      end
      assert.equal("gorge: unknown option 'serializer.encoder', did you mean 'serializer.encode'?",
        refusal { serializer = { name = "x", encoder = tostring, decode = tonumber } })
    end)
  end)

  describe("circuit_breaker", function()
    it("is off, on with defaults, or a table", function()
      assert.is_false(parse({ circuit_breaker = false }).circuit_breaker)
      assert.same({ max_failures = 5, timeout = 30, timeout_ms = 30000 }, parse({ circuit_breaker = true }).circuit_breaker)
      assert.same({ max_failures = 2, timeout = 30, timeout_ms = 30000 }, parse({ circuit_breaker = { max_failures = 2 } }).circuit_breaker)
      assert.same({ max_failures = 5, timeout = 0.25, timeout_ms = 250 }, parse({ circuit_breaker = { timeout = 0.25 } }).circuit_breaker)
      assert.equal(50, parse({ circuit_breaker = { slow_call = 0.05 } }).circuit_breaker.slow_call_ms)
    end)

    it("names what is wrong inside", function()
      assert.matches("^gorge: option 'circuit_breaker' must be a boolean or a table .*, got 5$", refusal { circuit_breaker = 5 })
      assert.matches("^gorge: option 'circuit_breaker.max_failures' must be an integer from 1 ", refusal { circuit_breaker = { max_failures = 0 } })
      assert.matches("^gorge: option 'circuit_breaker.timeout' must be a number of seconds", refusal { circuit_breaker = { timeout = "1" } })
      assert.equal("gorge: unknown option 'circuit_breaker.max_failure', did you mean 'circuit_breaker.max_failures'?",
        refusal { circuit_breaker = { max_failure = 1 } })
      assert.equal("gorge: unknown option [1] in circuit_breaker", refusal { circuit_breaker = { 5 } })
    end)
  end)

  describe("freshness_bound and disconnected_ttl", function()
    it("are seconds, the second may be 0", function()
      assert.equal(5, parse({}).freshness_bound)
      assert.equal(5000, parse({}).freshness_bound_ms)
      assert.equal(30, parse({}).disconnected_ttl)
      assert.equal(100, parse({ freshness_bound = 0.1 }).freshness_bound_ms)
      assert.equal(0, parse({ disconnected_ttl = 0 }).disconnected_ttl)
    end)
    it("have bounds", function()
      assert.equal("gorge: option 'freshness_bound' must be a number of seconds from 0.1 to 3600, got 0.05", refusal { freshness_bound = 0.05 })
      assert.equal("gorge: option 'freshness_bound' must be a number of seconds from 0.1 to 3600, got 3601", refusal { freshness_bound = 3601 })
      assert.equal("gorge: option 'disconnected_ttl' must be a number of seconds from 0 to 315360000, got -1", refusal { disconnected_ttl = -1 })
      assert.equal("gorge: option 'disconnected_ttl' must be a number of seconds from 0 to 315360000, got true", refusal { disconnected_ttl = true })
    end)
  end)

  describe("logger", function()
    it("is a function", function()
      assert.equal(print, parse({ logger = print }).logger)
      assert.equal("gorge: option 'logger' must be a function, got true", refusal { logger = true })
    end)
  end)

  describe("origin", function()
    it("is a table of limits, at least one of them", function()
      local origin = parse({ origin = { max_concurrency = 8, max_failures = 3 } }).origin
      assert.same({ max_concurrency = 8, max_failures = 3, timeout = 30, timeout_ms = 30000 }, origin)
      assert.same({ max_concurrency = 8, timeout = 0.5, timeout_ms = 500 }, parse({ origin = { max_concurrency = 8, timeout = 0.5 } }).origin)
      assert.is_nil(parse({}).origin)
      assert.equal("gorge: option 'origin' needs max_concurrency or max_failures", refusal { origin = { timeout = 1 } })
      assert.equal("gorge: option 'origin' must be a table { max_concurrency =, max_failures =, timeout = }, got true", refusal { origin = true })
      assert.equal("gorge: option 'origin.max_concurrency' must be an integer from 1 to 1000000, got 0", refusal { origin = { max_concurrency = 0 } })
      assert.equal("gorge: unknown option 'origin.max_failure', did you mean 'origin.max_failures'?", refusal { origin = { max_failure = 1 } })
    end)
  end)

  describe("unknown options", function()
    it("are refused with a suggestion when one is near", function()
      assert.equal("gorge: unknown option 'l1_sise', did you mean 'l1_size'?", refusal { l1_sise = 1 })
      assert.equal("gorge: unknown option 'lru_size', did you mean 'l1_objects'?", refusal { lru_size = 1 }) -- lua-resty-mlcache's, as neg_ttl
      assert.equal("gorge: unknown option 'neg_ttl', did you mean 'negative_cache_ttl'?", refusal { neg_ttl = 1 })
      assert.equal("gorge: unknown option 'redis.auth', did you mean 'redis.password'?", refusal { redis = { host = "h", auth = "secret" } })
      assert.equal("gorge: unknown option 'namespaces', did you mean 'namespace'?", refusal { namespaces = "x" })
      assert.equal("gorge: unknown option 'znoe', did you mean 'zone'?", refusal { znoe = 1 })
      assert.equal("gorge: unknown option 'stale_tll', did you mean 'stale_ttl'?", refusal { stale_tll = 1 })
    end)

    it("are refused without one otherwise", function()
      assert.equal("gorge: unknown option 'something'", refusal { something = 1 })
      assert.equal("gorge: unknown option 'x'", refusal { x = 1 })
      assert.equal("gorge: unknown option ''", refusal { [""] = 1 })
      assert.equal("gorge: unknown option [1]", refusal { "my-app" })
      assert.equal("gorge: unknown option [true]", refusal { [true] = 1 })
    end)

    it("are shown escaped and cut", function()
      assert.equal("gorge: unknown option 'a\\x0a\\xff'", refusal { ["a\n\255"] = 1 })
      assert.equal("gorge: unknown option '" .. ("y"):rep(64) .. "...'", refusal { [("y"):rep(100000)] = 1 })
    end)
  end)
end)

describe("option redis", function()
  local function redis(value)
    return parse({ redis = value }).redis
  end

  it("is absent without Redis", function()
    assert.is_nil(parse({}).redis)
  end)

  it("may be a URL", function()
    assert.same({
      host = "127.0.0.1", port = 6379, db = 2, tls = false, connect_timeout = 1, connect_timeout_ms = 1000, timeout = 0.5, timeout_ms = 500,
      keepalive_interval = 3, keepalive_interval_ms = 3000, max_pending = 4096, display = "redis://127.0.0.1:6379/2",
    }, redis "redis://127.0.0.1:6379/2")
    assert.same({
      path = "/run/redis.sock", db = 0, tls = false, connect_timeout = 1, connect_timeout_ms = 1000, timeout = 0.5, timeout_ms = 500,
      keepalive_interval = 3, keepalive_interval_ms = 3000, max_pending = 4096, display = "unix:///run/redis.sock?db=0",
    }, redis "unix:///run/redis.sock")
  end)

  it("may be a table", function()
    assert.same({
      host = "::1", port = 7000, username = "u", password = "p", db = 3, tls = false, connect_timeout = 0.2, connect_timeout_ms = 200, timeout = 2,
      timeout_ms = 2000, keepalive_interval = 0.1, keepalive_interval_ms = 100, max_pending = 10, display = "redis://[::1]:7000/3",
    }, redis {
      host = "::1", port = 7000, username = "u", password = "p", db = 3, connect_timeout = 0.2, timeout = 2, keepalive_interval = 0.1, max_pending = 10,
    })
    assert.equal(6379, redis({ host = "cache.example" }).port)
    assert.equal("::1", redis({ host = "[::1]" }).host)
    assert.equal("/tmp/r.sock", redis({ path = "/tmp/r.sock", password = "p" }).path)
  end)

  it("may ask for TLS", function()
    assert.same({ verify = true }, redis("rediss://h").tls)
    assert.equal("rediss://h:6379/0", redis("rediss://h").display)
    assert.same({ verify = true }, redis({ host = "h", tls = true }).tls)
    assert.same({ verify = true }, redis({ host = "h", tls = {} }).tls)
    assert.is_false(redis({ host = "h", tls = false }).tls)
    assert.equal("redis://h:6379/0", redis({ host = "h", tls = false }).display)
    assert.is_false(redis({ path = "/r.sock", tls = false }).tls)
    local all = { ca = "/ca.pem", cert = "/cert.pem", key = "/key.pem", server_name = "redis.example", verify = false }
    assert.same(all, redis({ host = "h", tls = all }).tls)
  end)

  it("names what is wrong in a table", function()
    local cases = {
      { { path = "/x", tls = true }, "^gorge: options 'redis.path' and 'redis.tls' exclude each other$" },
      { { host = "h", tls = 1 }, "^gorge: option 'redis.tls' must be a boolean or a table { ca =, .* }, got a number$" },
      { { host = "h", tls = { cert = "/c" } }, "^gorge: options 'redis.tls.cert' and 'redis.tls.key' need each other$" },
      { { host = "h", tls = { key = "/k" } }, "^gorge: options 'redis.tls.cert' and 'redis.tls.key' need each other$" },
      { { host = "h", tls = { ca = "ca.pem" } }, "^gorge: option 'redis.tls.ca' must be the absolute path of a PEM file, of at most 1023 bytes$" },
      { { host = "h", tls = { ca = "/" .. ("x"):rep(1023) } }, "^gorge: option 'redis.tls.ca' must be the absolute path" },
      { { host = "h", tls = { ca = "/a\0b" } }, "^gorge: option 'redis.tls.ca' must be the absolute path" },
      { { host = "h", tls = { ca = true } }, "^gorge: option 'redis.tls.ca' must be the absolute path" },
      { { host = "h", tls = { server_name = "a b" } }, "^gorge: option 'redis.tls.server_name' must be a host name, .* got \"a b\"$" },
      { { host = "h", tls = { verify = "no" } }, "^gorge: option 'redis.tls.verify' must be a boolean, got \"no\"$" },
      { { host = "h", tls = { verfiy = false } }, "^gorge: unknown option 'redis.tls.verfiy', did you mean 'redis.tls.verify'%?$" },
      { {}, "^gorge: option 'redis' needs 'host', 'path', 'cluster' or 'sentinels'$" },
      { { path = "/x", host = "h" }, "^gorge: options 'redis.path' and 'redis.host' exclude each other$" },
      { { path = "/x", port = 1 }, "^gorge: options 'redis.path' and 'redis.port' exclude each other$" },
      { { host = "h", username = "u" }, "^gorge: option 'redis.username' needs 'redis.password' too$" },
      { { host = "a b" }, "^gorge: option 'redis.host' must be a host name, an IPv4 or an IPv6 address, got \"a b\"$" },
      { { host = "" }, "^gorge: option 'redis.host' must be" },
      { { host = 5 }, "^gorge: option 'redis.host' must be .* got 5$" },
      { { host = "h", port = 0 }, "^gorge: option 'redis.port' must be an integer from 1 to 65535, got 0$" },
      { { host = "h", port = "6379" }, "^gorge: option 'redis.port' must be an integer from 1 to 65535, got \"6379\"$" },
      { { host = "h", port = 65536 }, "^gorge: option 'redis.port' must be" },
      { { host = "h", db = -1 }, "^gorge: option 'redis.db' must be an integer from 0 to 2147483647, got %-1$" },
      { { host = "h", db = 0.5 }, "^gorge: option 'redis.db' must be" },
      { { host = "h", timeout = 0 }, "^gorge: option 'redis.timeout' must be a number of seconds greater than 0 and at most 3600, got 0$" },
      { { host = "h", connect_timeout = 0 / 0 }, "^gorge: option 'redis.connect_timeout' must be .* got nan$" },
      { { host = "h", keepalive_interval = 0.09 }, "^gorge: option 'redis.keepalive_interval' must be a number of seconds from 0.1 to 3600, got 0.09$" },
      { { host = "h", keepalive_interval = 3601 }, "^gorge: option 'redis.keepalive_interval' must be" },
      { { host = "h", max_pending = 0 }, "^gorge: option 'redis.max_pending' must be an integer from 1 to 1048576, got 0$" },
      { { path = "relative" }, "^gorge: option 'redis.path' must be an absolute path of at most 107 bytes, got \"relative\"$" },
      { { path = "/" .. ("x"):rep(107) }, "^gorge: option 'redis.path' must be" },
      { { path = "/a\0b" }, "^gorge: option 'redis.path' must be" },
      { { hots = "h" }, "^gorge: unknown option 'redis.hots', did you mean 'redis.host'%?$" },
      { { x = "h" }, "^gorge: unknown option 'redis.x'$" },
      { { "redis://h" }, "^gorge: unknown option %[1%] in redis$" },
      { 6379, "^gorge: option 'redis' must be a URL string or a table, got a number$" },
      { false, "^gorge: option 'redis' must be a URL string or a table, got a boolean$" },
      { "", "^gorge: option 'redis' must be a URL such as redis://" },
      { "127.0.0.1:6379", "^gorge: option 'redis' must be a URL such as .* got \"127.0.0.1:6379\"$" },
    }
    for _, case in ipairs(cases) do
      assert.matches(case[2], refusal { redis = case[1] })
    end
  end)

  it("may name sentinels", function()
    local parsed = redis { sentinels = { "one", "two.example:1", "10.0.0.1:65535", "[::1]", "[2001:db8::1]:7" }, master = "main", db = 2,
      sentinel_username = "su", sentinel_password = "sp", username = "u", password = "p" }
    assert.same({ { host = "one", port = 26379 }, { host = "two.example", port = 1 }, { host = "10.0.0.1", port = 65535 },
      { host = "::1", port = 26379 }, { host = "2001:db8::1", port = 7 } }, parsed.sentinels)
    assert.same({ "main", "su", "sp", "u", "p", 2 }, { parsed.master, parsed.sentinel_username, parsed.sentinel_password, parsed.username,
      parsed.password, parsed.db })
    assert.is_nil(parsed.host or parsed.port or parsed.path)
    assert.equal("master 'main' of the sentinels one:26379, two.example:1, 10.0.0.1:65535, [::1]:26379, [2001:db8::1]:7, database 2", parsed.display)
  end)

  it("may name sentinels that speak TLS", function()
    for _, tls in ipairs { { server_name = "redis.example" }, { verify = false } } do
      assert.equal(tls.server_name, redis({ sentinels = { "h" }, master = "m", tls = tls }).tls.server_name)
    end
  end)

  it("names what is wrong with sentinels", function()
    local accepts = "^gorge: option 'redis.sentinels' must be an array of 1 to 16 addresses such as \"sentinel%-1:26379\", got "
    local many = {}
    for i = 1, 17 do
      many[i] = "h" .. i
    end
    local list = { "h" }
    local cases = {
      { { sentinels = "h:26379", master = "m" }, accepts .. "\"h:26379\"$" },
      { { sentinels = {}, master = "m" }, accepts .. "0 of them$" },
      { { sentinels = many, master = "m" }, accepts .. "17 of them$" },
      { { sentinels = { "h", port = 1 }, master = "m" }, accepts .. "a table with the key \"port\"$" },
      { { sentinels = { "h", "a b" }, master = "m" }, "^gorge: option 'redis.sentinels%[2%]' must be \"host:port\" .* got \"a b\"$" },
      { { sentinels = { "h:0" }, master = "m" }, "option 'redis.sentinels%[1%]' must be" },
      { { sentinels = { "h:65536" }, master = "m" }, "option 'redis.sentinels%[1%]' must be" },
      { { sentinels = { "::1" }, master = "m" }, "option 'redis.sentinels%[1%]' must be" },
      { { sentinels = { "" }, master = "m" }, "option 'redis.sentinels%[1%]' must be" },
      { { sentinels = { 26379 }, master = "m" }, "option 'redis.sentinels%[1%]' must be .* got 26379$" },
      { { sentinels = list }, "^gorge: option 'redis.sentinels' needs 'redis.master', the name that the sentinels know the master by$" },
      { { sentinels = list, master = "" },
        "^gorge: option 'redis.master' must be the name .*, 1 to 128 printable characters without blanks, got \"\"$" },
      { { sentinels = list, master = "a b" }, "option 'redis.master' must be" },
      { { sentinels = list, master = ("m"):rep(129) }, "option 'redis.master' must be" },
      { { sentinels = list, master = "m", host = "h" },
        "^gorge: options 'redis.sentinels' and 'redis.host' exclude each other: the sentinels tell where the master is$" },
      { { sentinels = list, master = "m", port = 1 }, "'redis.sentinels' and 'redis.port' exclude each other" },
      { { sentinels = list, master = "m", path = "/p" }, "'redis.sentinels' and 'redis.path' exclude each other" },
      { { sentinels = list, master = "m", cluster = list }, "^gorge: options 'redis.cluster' and 'redis.sentinels' exclude each other: " },
      { { sentinels = list, master = "m", tls = true }, "^gorge: option 'redis.tls' needs 'server_name' with sentinels: " },
      { { sentinels = list, master = "m", tls = { verify = true } }, "^gorge: option 'redis.tls' needs 'server_name' with sentinels: " },
      { { sentinels = list, master = "m", username = "u" }, "option 'redis.username' needs 'redis.password' too$" },
      { { sentinels = list, master = "m", sentinel_username = "u" }, "option 'redis.sentinel_username' needs 'redis.sentinel_password' too$" },
      { { host = "h", master = "m" }, "^gorge: option 'redis.master' needs 'redis.sentinels' too$" },
      { { host = "h", sentinel_password = "p" }, "^gorge: option 'redis.sentinel_password' needs 'redis.sentinels' too$" },
      { { host = "h", sentinel_username = "p" }, "^gorge: option 'redis.sentinel_username' needs 'redis.sentinels' too$" },
      { { sentinel = list, master = "m" }, "^gorge: unknown option 'redis.sentinel', did you mean 'redis.sentinels'%?$" },
    }
    for _, case in ipairs(cases) do
      assert.matches(case[2], refusal { redis = case[1] })
    end
  end)

  it("may name nodes of a cluster", function()
    local parsed = redis { cluster = { "one", "10.0.0.1:7000", "[::1]:7" }, username = "u", password = "p", timeout = 2 }
    assert.same({ { host = "one", port = 6379 }, { host = "10.0.0.1", port = 7000 }, { host = "::1", port = 7 } }, parsed.cluster)
    assert.same({ "u", "p", 0, 2000 }, { parsed.username, parsed.password, parsed.db, parsed.timeout_ms })
    assert.is_nil(parsed.host or parsed.port or parsed.path or parsed.sentinels)
    assert.equal("the cluster of one:6379, 10.0.0.1:7000, [::1]:7", parsed.display)
    for _, tls in ipairs { { server_name = "redis.example" }, { verify = false }, {} } do
      assert.equal(tls.server_name, redis({ cluster = { "h" }, tls = tls }).tls.server_name)
    end
  end)

  it("names what is wrong with a cluster", function()
    local accepts = "^gorge: option 'redis.cluster' must be an array of 1 to 16 addresses such as \"redis%-1:6379\", got "
    local many = {}
    for i = 1, 17 do
      many[i] = "h" .. i
    end
    local list = { "h" }
    local cases = {
      { { cluster = "h:6379" }, accepts .. "\"h:6379\"$" },
      { { cluster = true }, accepts .. "true$" },
      { { cluster = {} }, accepts .. "0 of them$" },
      { { cluster = many }, accepts .. "17 of them$" },
      { { cluster = { "h", port = 1 } }, accepts .. "a table with the key \"port\"$" },
      { { cluster = { "h", "redis://h" } }, "^gorge: option 'redis.cluster%[2%]' must be \"host:port\" .* got \"redis://h\"$" },
      { { cluster = { "h:0" } }, "option 'redis.cluster%[1%]' must be" },
      { { cluster = { "h:65536" } }, "option 'redis.cluster%[1%]' must be" },
      { { cluster = { "::1" } }, "option 'redis.cluster%[1%]' must be" },
      { { cluster = { 6379 } }, "option 'redis.cluster%[1%]' must be .* got 6379$" },
      { { cluster = list, host = "h" },
        "^gorge: options 'redis.cluster' and 'redis.host' exclude each other: the nodes of a cluster tell where the others are$" },
      { { cluster = list, port = 1 }, "'redis.cluster' and 'redis.port' exclude each other" },
      { { cluster = list, path = "/p" }, "'redis.cluster' and 'redis.path' exclude each other" },
      { { cluster = list, db = 1 }, "^gorge: option 'redis.db' must be 0 with 'redis.cluster': a cluster has no other database$" },
      { { cluster = list, master = "m" }, "^gorge: option 'redis.master' needs 'redis.sentinels' too$" },
      { { cluster = list, username = "u" }, "option 'redis.username' needs 'redis.password' too$" },
      { { clutser = list }, "^gorge: unknown option 'redis.clutser', did you mean 'redis.cluster'%?$" },
    }
    for _, case in ipairs(cases) do
      assert.matches(case[2], refusal { redis = case[1] })
    end
  end)

  it("never shows a secret in an error", function()
    local secret = "hunter2"
    local cases = {
      { host = "h", port = 0, password = secret },
      { host = "h", password = 0 },
      { host = "user:" .. secret .. "@h" },
      { host = "redis://" .. secret .. "@h" },
      { path = "redis://u:" .. secret .. "@h" },
      { host = "h", password = secret, username = "" },
      { host = "h", username = "u", password = secret .. ("x"):rep(2000) },
      { password = secret },
      { sentinels = { "user:" .. secret .. "@h:1" }, master = "m" },
      { sentinels = "redis://u:" .. secret .. "@h", master = "m" },
      { sentinels = { "h" }, sentinel_password = secret, password = secret },
      { cluster = { "user:" .. secret .. "@h:1" } },
      { cluster = "redis://u:" .. secret .. "@h" },
      { cluster = { "h" }, password = secret, db = 1 },
      "redis://u:" .. secret .. "@h:bad",
      "rediss://u:" .. secret .. "@h:0",
      { host = "h", tls = { cert = secret, key = "/k" } },
      { host = "h", tls = { cert = "/c", key = "-----BEGIN PRIVATE KEY-----\n" .. secret } },
      { host = "h", tls = { server_name = "user:" .. secret .. "@h" } },
      { host = "h", tls = { server_name = "rediss://:" .. secret .. "@h:6380" } },
      { host = "h", tls = { server_name = "-----BEGIN PRIVATE KEY-----\n" .. secret } },
      { sentinels = { "h" }, master = "redis://u:" .. secret .. "@h " },
      "http://u:" .. secret .. "@h",
      "u:" .. secret .. "@h",
    }
    for _, case in ipairs(cases) do
      assert.not_matches(secret, refusal { redis = case }, 1, true)
    end
    assert.matches('got "%-%-%-%-%-BEGIN%*%*%*"$', refusal { redis = { host = "h", tls = { server_name = "-----BEGIN PRIVATE KEY-----\n" .. secret } } })
    assert.matches('got "a\\x1b%[2J\\xff"$', refusal { redis = { host = "h", tls = { server_name = "a\27[2J\255" } } })
    assert.not_matches("4711", refusal { redis = { host = "h", password = 4711 } })
    assert.not_matches(secret, redis("redis://u:" .. secret .. "@h").display)
    assert.not_matches(secret, redis({ host = "h", password = secret }).display)
  end)
end)

describe("options.parse_call", function()
  local function call(opts)
    return options.parse_call(opts, 1)
  end

  local function call_refusal(opts)
    return message_of(function()
      call(opts)
    end)
  end

  it("overrides nothing without options", function()
    assert.equal(0, select("#", call(nil)))
    assert.same({ n = 10 }, { n = select("#", call {}), call {} })
  end)

  it("gives each override in its place", function()
    local args = { 1, 2 }
    local negative_ms, lock_ms, on_timeout, got, clone, blocking, jitter, stale_ms, stale_ttl_ms, soft_ms = call {
      negative_cache_ttl = 0.25, lock_ttl = 3, on_lock_timeout = "error", args = args, clone = true, blocking = false,
      expiration_jitter = 0.5, stale_if_error = 1.5, stale_ttl = 7, soft_timeout = 0.2,
    }
    assert.same({ 250, 3000, "error", true, false, 0.5, 1500, 7000, 200 },
      { negative_ms, lock_ms, on_timeout, clone, blocking, jitter, stale_ms, stale_ttl_ms, soft_ms })
    assert.equal(0, (select(8, call { stale_if_error = 0 })))
    assert.equal(args, got)
    assert.equal("run", (select(3, call { on_lock_timeout = "run" })))
  end)

  it("takes arguments as an array, empty, or with n when there are holes", function()
    for _, args in ipairs { {}, { 1 }, { false }, { n = 2, nil, 5 }, { n = 0 }, { nil, 2, n = 2 } } do
      assert.equal(args, (select(4, call { args = args })))
    end
    local many = {}
    for i = 1, 201 do
      many[i] = i
    end
    for _, args in ipairs { 5, "x", { id = 1 }, { n = -1 }, { n = 1.5 }, { n = 201 }, { n = "2" }, many, { n = 0 / 0 } } do
      assert.matches("^gorge: option 'args' must be an array of at most 200 arguments for fn", call_refusal { args = args })
    end
  end)

  it("names what is wrong", function()
    local cases = {
      { { negative_cache_ttl = 0 }, "^gorge: option 'negative_cache_ttl' must be a number of seconds greater than 0 .*, got 0$" },
      { { negative_cache_ttl = 0 / 0 }, "^gorge: option 'negative_cache_ttl' must be .* got nan$" },
      { { lock_ttl = "1" }, "^gorge: option 'lock_ttl' must be a number of seconds greater than 0 and at most 3600, got \"1\"$" },
      { { lock_ttl = 3601 }, "^gorge: option 'lock_ttl' must be" },
      { { on_lock_timeout = "wait" }, "^gorge: option 'on_lock_timeout' must be one of \"run\", \"stale\", \"error\", got \"wait\"$" },
      { { clone = 1 }, "^gorge: option 'clone' must be a boolean, got 1$" },
      { { blocking = "yes" }, "^gorge: option 'blocking' must be a boolean, got \"yes\"$" },
      { { stale_ttl = 0 }, "^gorge: option 'stale_ttl' must be a number of seconds greater than 0 and at most 315360000, got 0$" },
      { { early_refresh = true }, "^gorge: option 'early_refresh' belongs to gorge.new, it cannot be set for one call$" },
      { { stale_if_error = -1 }, "^gorge: option 'stale_if_error' must be a number of seconds from 0 to 315360000, got %-1$" },
      { { stale_if_error = 0 / 0 }, "^gorge: option 'stale_if_error' must be a number of seconds from 0 to 315360000, got nan$" },
      { { soft_timeout = 0 }, "^gorge: option 'soft_timeout' must be a number of seconds greater than 0 and at most 86400, got 0$" },
      { { expiration_jitter = -0.1 }, "^gorge: option 'expiration_jitter' must be a number from 0 to 1, got %-0.1$" },
      { { expiration_jitter = 0 / 0 }, "^gorge: option 'expiration_jitter' must be a number from 0 to 1, got nan$" },
      { { l1_ttl = 1 }, "^gorge: option 'l1_ttl' belongs to gorge.new, it cannot be set for one call$" },
      { { metrics = {} }, "^gorge: option 'metrics' belongs to gorge.new, it cannot be set for one call$" },
      { { arg = {} }, "^gorge: unknown option 'arg', did you mean 'args'%?$" },
      { { 5 }, "^gorge: unknown option %[1%]$" },
      { 5, "^gorge: the options of a call must be a table, got 5$" },
      { "x", "^gorge: the options of a call must be a table, got \"x\"$" },
    }
    for _, case in ipairs(cases) do
      assert.matches(case[2], call_refusal(case[1]))
    end
  end)

  it("raises at the line of the caller", function()
    local function fetch(opts)
      local ms = options.parse_call(opts)
      return ms
    end
    local line
    local ok, err = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      fetch { clone = 1 }
    end)
    assert.is_false(ok)
    assert.matches("options_spec.lua:" .. line .. ": gorge: option 'clone'", err)
  end)

  it("creates no garbage", function()
    local opts = { negative_cache_ttl = 0.25, lock_ttl = 3, on_lock_timeout = "run", args = { 1 }, clone = true, blocking = true,
      stale_if_error = 1, stale_ttl = 1 }
    local function run(count)
      for _ = 1, count do
        call(opts)
      end
    end
    run(1000)
    collectgarbage()
    collectgarbage("stop")
    local before = collectgarbage("count")
    run(10000)
    local grown = collectgarbage("count") - before
    collectgarbage("restart")
    assert.is_true(grown < 100, grown .. " KiB") -- one table of 40 bytes each would be 390; compiled traces take a few
  end)
end)

describe("options.to_ms", function()
  it("rounds up and never gives 0", function()
    for seconds, ms in pairs { [1] = 1000, [0.001] = 1, [0.0001] = 1, [1e-9] = 1, [0.0015] = 2, [0.3] = 300, [2.007] = 2007, [3600] = 3600000 } do
      assert.equal(ms, options.to_ms(seconds))
    end
  end)
end)
