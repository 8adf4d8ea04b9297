-- SPDX-License-Identifier: MIT
-- Redis addresses: what is accepted, what is refused in which words, and that no secret shows.

local redis_url = require "gorge.redis_url"

describe("redis_url.parse", function()
  it("reads hosts, ports, databases and logins", function()
    local cases = {
      ["redis://localhost"] = { host = "localhost", port = 6379, db = 0 },
      ["redis://localhost/"] = { host = "localhost", port = 6379, db = 0 },
      ["REDIS://Localhost:7000"] = { host = "Localhost", port = 7000, db = 0 },
      ["redis://127.0.0.1:65535/15"] = { host = "127.0.0.1", port = 65535, db = 15 },
      ["redis://my_redis-1.example:1/2147483647"] = { host = "my_redis-1.example", port = 1, db = 2147483647 },
      ["redis://[::1]"] = { host = "::1", port = 6379, db = 0 },
      ["redis://[fe80::1:2]:7001/3"] = { host = "fe80::1:2", port = 7001, db = 3 },
      ["redis://[::ffff:10.0.0.1]"] = { host = "::ffff:10.0.0.1", port = 6379, db = 0 },
      ["redis://user:pass@h:1/1"] = { host = "h", port = 1, db = 1, username = "user", password = "pass" },
      ["redis://:pass@h"] = { host = "h", port = 6379, db = 0, password = "pass" },
      ["redis://:p%40%2f%3a%25@h"] = { host = "h", port = 6379, db = 0, password = "p@/:%" },
      ["redis://u%3As:p:q@h"] = { host = "h", port = 6379, db = 0, username = "u:s", password = "p:q" },
      ["redis://u:p@q@h"] = { host = "h", port = 6379, db = 0, username = "u", password = "p@q" },
      ["redis://:%00%ff@[::1]:2"] = { host = "::1", port = 2, db = 0, password = "\0\255" },
      ["rediss://h"] = { host = "h", port = 6379, db = 0, tls = true },
      ["RedisS://u:p@[::1]:7000/3"] = { host = "::1", port = 7000, db = 3, username = "u", password = "p", tls = true },
      ["unix:///run/redis.sock"] = { path = "/run/redis.sock", db = 0 },
      ["unix:///run/a%20b.sock?db=4"] = { path = "/run/a b.sock", db = 4 },
      ["unix:///run/a@b:c.sock"] = { path = "/run/a@b:c.sock", db = 0 },
      ["unix://u:p@/run/redis.sock"] = { path = "/run/redis.sock", db = 0, username = "u", password = "p" },
    }
    for url, fields in pairs(cases) do
      local got, err = redis_url.parse(url)
      assert(got, err)
      assert.same(fields, got)
    end
  end)

  it("says what is wrong", function()
    local cases = {
      { "", "^must be a URL such as redis://" },
      { "localhost", "^must be a URL such as" },
      { "localhost:6379", '^must be a URL such as .* got "localhost:6379"$' },
      { "http://h", "^must be a URL such as" },
      { "redis:h", "^must be a URL such as" },
      { "rediss://", "^has no host" },
      { "rediss://h/x", "^needs a database number" },
      { "rediss://h?ca=/x", "^takes no query" },
      { "rediss://secret@h", "^names a user without a password" },
      { "redis://", "^has no host" },
      { "redis:///0", "^has no host" },
      { "redis://:6379", "^has no host" },
      { "redis://a b", "^has a malformed host" },
      { "redis://-h", "^has a malformed host" },
      { "redis://" .. ("h"):rep(254), "^has a malformed host" },
      { "redis://[::1", "^needs an IPv6 address such as %[::1%] in the brackets" },
      { "redis://[]", "^needs an IPv6 address" },
      { "redis://[localhost]", "^needs an IPv6 address" },
      { "redis://[::g]", "^has a malformed host" },
      { "redis://::1", "^has no host" },
      { "redis://h:", "^needs a port from 1 to 65535" },
      { "redis://h:0", "^needs a port from 1 to 65535" },
      { "redis://h:65536", "^needs a port from 1 to 65535" },
      { "redis://h:999999999999", "^needs a port from 1 to 65535" },
      { "redis://h:-1", "^needs a port from 1 to 65535" },
      { "redis://h:63 79", "^needs a port from 1 to 65535" },
      { "redis://[::1]x", "^needs a port from 1 to 65535" },
      { "redis://h/x", "^needs a database number from 0 to 2147483647" },
      { "redis://h/-1", "^needs a database number" },
      { "redis://h/2147483648", "^needs a database number" },
      { "redis://h/1/2", "^needs a database number" },
      { "redis://h/0?db=1", "^takes no query" },
      { "redis://h?", "^takes no query" },
      { "redis://h/0#x", "^takes no fragment" },
      { "redis://user@h", "^names a user without a password" },
      { "redis://user:@h", "^has an empty password" },
      { "redis://:p%4@h", "^has a '%%' in its user or password" },
      { "redis://:100%@h", "^has a '%%' in its user or password" },
      { "redis://:" .. ("p"):rep(1025) .. "@h", "^has a user or password of over 1024 bytes" },
      { "redis://u:a/b@h", "^has a '/', '%?' or '#' in its user or password" },
      { "redis://u:a?b@h", "^has a '/', '%?' or '#' in its user or password" },
      { "redis://u:a#b@h", "^has a '/', '%?' or '#' in its user or password" },
      { "unix://run/redis.sock", "^needs three slashes" },
      { "unix://", "^needs an absolute path of at most 107 bytes" },
      { "unix:///", "^needs an absolute path" },
      { "unix:///" .. ("x"):rep(107), "^needs an absolute path" },
      { "unix:///a%00b", "^needs an absolute path" },
      { "unix:///a%zz", "^needs an absolute path" },
      { "unix:///a?db=x", "^takes no query but %?db=N" },
      { "unix:///a?timeout=1", "^takes no query but %?db=N" },
      { "unix:///a?", "^takes no query but %?db=N" },
    }
    for _, case in ipairs(cases) do
      local got, err = redis_url.parse(case[1])
      assert.is_nil(got, case[1])
      assert.matches(case[2], err)
    end
  end)

  it("shows the URL in errors, escaped and cut", function()
    assert.matches('got "redis://h:%*%*%*"$', (select(2, redis_url.parse("redis://h:x\n"))))
    assert.matches('got "redis://h:0"$', (select(2, redis_url.parse("redis://h:0"))))
    assert.matches('got "redis://a\\x0ab"$', (select(2, redis_url.parse("redis://a\nb"))))
    assert.is_true(#select(2, redis_url.parse("redis://" .. ("h"):rep(1e6))) < 250)
  end)

  it("shows no secret in any error, wherever it stands", function()
    local secret = "s3cret"
    local urls = {
      "redis://user:s3cret@h:bad", "redis://:s3cret@h:0", "redis://s3cret@h", "redis://user:s3c%zzret@h", "redis://user:s3cret@",
      "redis://user:s3cret/x@h", "redis://user:x/s3cret@h", "redis://user:x?s3cret@h:1", "redis://user:#s3cret@h", "redis://user:x@s3cret@h:0",
      "redis://h:s3cret", "redis://:s3cret", "redis://h?password=s3cret", "unix:///a?password=s3cret", "unix://u:s3cret@x/a", "http://u:s3cret@h",
      "u:s3cret@h", "s3cret@h", "rediss://u:s3cret@h:0", "rediss://u:x/s3cret@h", "redis:u:s3cret@h", "redis://u:a://s3cret@h:0", "redis://h/0#s3cret",
    }
    for _, url in ipairs(urls) do
      local got, err = redis_url.parse(url)
      assert.is_nil(got, url)
      assert.is_nil(err:find(secret, 1, true), url .. " -> " .. err)
    end
  end)
end)

describe("redis_url.mask", function()
  it("keeps scheme, user and host", function()
    assert.equal("redis://user:***@host:1/2", redis_url.mask("redis://user:pw@host:1/2"))
    assert.equal("redis://:***@host", redis_url.mask("redis://:pw@host"))
    assert.equal("redis://***@host", redis_url.mask("redis://pw@host"))
    assert.equal("redis://host:1/2", redis_url.mask("redis://host:1/2"))
    assert.equal("redis://[::1]:1/2", redis_url.mask("redis://[::1]:1/2"))
    assert.equal("unix:///a?***", redis_url.mask("unix:///a?db=1"))
  end)
end)

describe("redis_url.display", function()
  it("names the database without a login", function()
    assert.equal("redis://h:1/2", redis_url.display { host = "h", port = 1, db = 2, username = "u", password = "pw" })
    assert.equal("redis://[::1]:1/0", redis_url.display { host = "::1", port = 1, db = 0 })
    assert.equal("rediss://h:1/2", redis_url.display { host = "h", port = 1, db = 2, tls = {} })
    assert.equal("unix:///a\\x0a?db=3", redis_url.display { path = "/a\n", db = 3, password = "pw" })
  end)
end)
