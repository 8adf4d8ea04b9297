-- SPDX-License-Identifier: MIT
-- luarocks make rockspec/gorge-scm-1.rockspec [--tree DIR]   from the root of a checkout
rockspec_format = "3.0"
package = "gorge"
version = "scm-1"

source = {
  url = ".", -- the checkout itself: this rockspec is for `luarocks make`
}

description = {
  summary = "A two-layer cache engine for OpenResty and LuaJIT",
  detailed = [[
    Decoded values per worker, one copy per host in shared memory, Redis behind it, and one run of the loader per key.
    A C core with a Lua package on top.
  ]],
  license = "MIT",
}

-- lua-cjson is needed at run time and left out on purpose: OpenResty ships it, Debian has it as the package lua-cjson,
-- and the copy of a rocks server would be built a second time, for another Lua as like as not. So is argparse, which only the
-- command line needs: Debian has it as lua-argparse, others take the rock `argparse`.
dependencies = {
  "lua == 5.1", -- LuaJIT 2.1
}

external_dependencies = {
  HIREDIS = { header = "hiredis/hiredis.h", library = "hiredis" },
  EV = { header = "ev.h", library = "ev" },
  OPENSSL = { header = "openssl/ssl.h", library = "ssl" },
  XXHASH = { header = "xxhash.h" },
}

build = {
  type = "make",
  build_target = "build",
  install_target = "install",
  build_variables = {
    CFLAGS = "$(CFLAGS) -g",
    CPPFLAGS = "-I$(HIREDIS_INCDIR) -I$(EV_INCDIR) -I$(OPENSSL_INCDIR) -I$(XXHASH_INCDIR)",
    LDFLAGS = "-L$(HIREDIS_LIBDIR) -L$(EV_LIBDIR) -L$(OPENSSL_LIBDIR)",
  },
  install_variables = {
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
    BINDIR = "$(BINDIR)",
  },
}

-- The program finds its modules itself, and needs LuaJIT, which a wrapper would not ask for.
deploy = {
  wrap_bin_scripts = false,
}
