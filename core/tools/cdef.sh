#!/bin/sh
# SPDX-License-Identifier: MIT
# Wraps a C header verbatim into a Lua module that declares it: cdef.sh HEADER > cdef.lua
set -eu

header=$1

# ffi.cdef has no preprocessor: a directive would fail at load time, on the user's machine.
if grep -n '^[[:space:]]*#' "$header" >&2; then
  echo "cdef.sh: $header: preprocessor lines cannot go into ffi.cdef" >&2
  exit 1
fi

# The shortest long bracket that nothing in the header closes.
level=
while grep -qF "]$level]" "$header"; do
  level="=$level"
done

# A VM keeps its declarations when package.loaded forgets the module, and refuses them a second time:
# the header's first named type tells whether they are there.
marker=$(grep -oE '^(struct|enum) [A-Za-z_0-9]+' "$header" | head -n 1)
[ -n "$marker" ] || { echo "cdef.sh: $header: declares no struct or enum" >&2; exit 1; }

cat <<EOF
-- Generated from core/include/${header##*/}. Do not edit: change the header and run make.
local ffi = require "ffi"

if pcall(ffi.typeof, "$marker") then
  return true
end

ffi.cdef [${level}[
$(cat "$header")
]${level}]

return true
EOF
