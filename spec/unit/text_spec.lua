-- SPDX-License-Identifier: MIT
-- Foreign bytes in messages, and the UTF-8 check.

local text = require "gorge.text"

describe("text.is_utf8", function()
  it("takes well-formed UTF-8", function()
    local good = { "", "a", "é", "€", "😀", "\194\128", "\223\191", "\224\160\128", "\237\159\191", "\238\128\128", "\239\191\191",
      "\240\144\128\128", "\244\143\191\191", "a\0b", "é€😀x" }
    for _, s in ipairs(good) do
      assert.is_true(text.is_utf8(s))
      assert.is_true(text.is_utf8("x" .. s .. "y"))
    end
  end)

  it("refuses all else", function()
    local bad = { "\128", "\191", "\192\128", "\193\191", "\194", "\194a", "\224\159\191", "\224\160", "\224\160a", "\237\160\128", "\237\191\191",
      "\240\143\191\191", "\240\144\128", "\240\144\128a", "\244\144\128\128", "\245\128\128\128", "\248\136\128\128\128", "\254", "\255", "é\255" }
    for _, s in ipairs(bad) do
      assert.is_false(text.is_utf8(s))
      assert.is_false(text.is_utf8("x" .. s .. "y"))
    end
  end)
end)

describe("text.printable", function()
  it("escapes what is not printable ASCII and cuts", function()
    assert.equal('a"b\\', text.printable('a"b\\'))
    assert.equal("\\x00\\x0a\\x1b\\x7f\\xc3\\xa9", text.printable("\0\n\27\127é"))
    assert.equal("abc...", text.printable("abcd", 3))
    assert.equal("abc", text.printable("abc", 3))
  end)
end)

describe("text.quote", function()
  it("adds quotes and escapes those inside", function()
    assert.equal([["a\"b\\\x0a"]], text.quote('a"b\\\n'))
    assert.equal('"abc..."', text.quote("abcd", 3))
  end)
end)

describe("text.describe", function()
  it("names values of each type", function()
    local cases = { { "x", '"x"' }, { 1.5, "1.5" }, { 2, "2" }, { 0 / 0, "nan" }, { -(0 / 0), "nan" }, { math.huge, "inf" }, { true, "true" },
      { {}, "a table" }, { print, "a function" } }
    for _, case in ipairs(cases) do
      assert.equal(case[2], text.describe(case[1]))
    end
    assert.equal("nil", text.describe(nil))
  end)
end)
