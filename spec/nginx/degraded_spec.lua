-- SPDX-License-Identifier: MIT
-- cache_read_disabled and cache_delete_disabled: a cache that does less, on purpose.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

for _, with in ipairs { "without Redis", "with Redis" } do
  describe("a cache " .. with, function()
    local function start(options)
      options.redis = with == "with Redis" and helper.redis().url or nil
      options.namespace, options.zone, options.l1_size = "degraded", "degraded", "4m"
      local n = node.start {
        options = options,
        init = ([[
          local app = require "spec.nginx.app"
          app.full = assert(app.gorge.new { namespace = "degraded", zone = "degraded", l1_size = "4m", redis = %s })
        ]]):format(options.redis and ("%q"):format(options.redis) or "nil"),
      }
      return options.redis and n:wait_subscribed() or n
    end

    it("that does not read runs fn for each caller, and stores nothing", function()
      local n = start { cache_read_disabled = true }
      n:run [[assert(full:set("k", "stored", 60))]]
      assert.equal("stored", (n:run [[return full:get "k"]]))
      for i = 1, 3 do
        local value, err, source = n:run [[
          return cache:fetch("k", 60, function(key, more) count "runs" return key .. more end, "t", { args = { "!" } })
        ]]
        assert.same({ "k!", nil, "fn" }, { value, err, source })
        assert.equal(i, n:counted "runs")
      end
      assert.equal("stored", (n:run [[return full:get "k"]]))
      n:run [[cache:fetch("new", 60, function() return 1 end)]]
      assert.is_nil((n:run [[return full:get "new"]]))
      -- nobody waits for anybody
      local batch = n:start(20, [[return cache:fetch("slow", 60, function() count "slow" ngx.sleep(0.05) return 1 end)]])
      for _, result in ipairs(batch:results()) do
        assert.equal(1, result[1])
      end
      assert.equal(20, n:counted "slow")
      assert.equal(0, n:stats().fills_running)
      -- what fails is told as ever
      assert.same({ nil, "down" }, { n:run [[return cache:fetch("k", 60, function() return nil, "down" end)]] })
      assert.matches("^gorge: fn raised: ", select(2, n:run [[return cache:fetch("k", 60, function() error "x" end)]]))
      assert.same({ nil, "gorge: key must not be empty" }, { n:run [[return cache:fetch("", 60, print)]] })
      for code, said in pairs {
        ["cache:fetch(5)"] = "key must be a string", ["cache:fetch('k', -1, print)"] = "ttl must be", ["cache:fetch('k', 1)"] = "fn must be",
        ["cache:fetch('k', 1, print, 5)"] = "tags must be", ["cache:fetch('k', 1, print, nil, { clon = true })"] = "unknown option 'clon'",
      } do
        local ok, err = n:run("return pcall(function() " .. code .. " end)")
        assert.is_false(ok)
        assert.matches("^posted:1: gorge: " .. said, err)
      end
      -- and the rest works
      assert.equal("stored", (n:run [[return cache:get "k"]]))
      assert.is_true(n:run [[return cache:delete "k"]])
      assert.is_nil((n:run [[return full:get "k"]]))
      assert.same({ nil, "closed" }, { n:run [[cache:close() return cache:fetch("k", 1, print)]] })
    end)

    it("that does not delete says true and leaves everything", function()
      local n = start { cache_delete_disabled = true }
      n:run [[assert(cache:set("k", "kept", 60, "t"))]]
      assert.same({ true, true, true, true }, {
        n:run [[return cache:delete "k", cache:invalidate_tags "t", cache:invalidate_tags { "t", "u" }, cache:clear()]],
      })
      for id = 0, 1 do
        assert.equal("kept", (n:worker(id):run [[return cache:get "k"]]))
      end
      local stats = n:stats()
      assert.same({ 0, 0, 0 }, { stats.deletes, stats.invalidated_tags, stats.clears })
      assert.same({ nil, "gorge: key must not be empty" }, { n:run [[return cache:delete ""]] })
      for code, said in pairs {
        ["cache:delete(5)"] = "key must be a string", ["cache:invalidate_tags()"] = "invalidate_tags needs at least one tag",
        ["cache:invalidate_tags(5)"] = "tags must be",
      } do
        local ok, err = n:run("return pcall(function() " .. code .. " end)")
        assert.is_false(ok)
        assert.matches("^posted:1: gorge: " .. said, err)
      end
      assert.is_true(n:run [[return full:delete "k"]])
      assert.is_nil((n:run [[return cache:get "k"]]))
      assert.same({ nil, "closed" }, { n:run [[cache:close() return cache:delete "k"]] })
    end)
  end)
end
