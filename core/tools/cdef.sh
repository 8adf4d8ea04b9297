#!/bin/sh
# SPDX-License-Identifier: MIT
# Wraps C headers verbatim into a Lua module that declares what they do: cdef.sh HEADER... > cdef.lua
set -eu

# ffi.cdef has no preprocessor: a directive would fail at load time, on the user's machine.
if grep -n '^[[:space:]]*#' "$@" >&2; then
  echo "cdef.sh: $*: preprocessor lines cannot go into ffi.cdef" >&2
  exit 1
fi

# The shortest long bracket that nothing in the header closes.
level=
while cat "$@" | grep -qF "]$level]"; do
  level="=$level"
done

# A VM keeps its declarations when package.loaded forgets the module, and refuses them a second time:
# the first named type tells whether they are there.
marker=$(grep -oE '^(struct|enum) [A-Za-z_0-9]+' "$1" | head -n 1)
[ -n "$marker" ] || { echo "cdef.sh: $1: declares no struct or enum" >&2; exit 1; }

cat <<EOF
-- Generated from the headers of core/include. Do not edit: change them and run make.
local ffi = require "ffi"

if pcall(ffi.typeof, "$marker") then
  return true
end

ffi.cdef [${level}[
$(cat "$@")
]${level}]

return true
EOF
