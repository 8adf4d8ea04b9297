#!/bin/bash
# SPDX-License-Identifier: MIT
# The library exports what its headers declare, no more and no less: check_exports.sh LIBRARY HEADER
# HEADER includes those headers that declare, which stand in its folder and are named gorge_ffi*.h.
set -eu

library=$1 header=$2
[ -f "$library" ] || { echo "$library is not built" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The compiler says what the header declares; -aux-info names the file each prototype stands in.
printf '#include <stddef.h>\n#include <stdint.h>\n#include "%s"\n' "$(realpath "$header")" > "$work/all.c"
gcc -std=gnu11 -fsyntax-only -aux-info "$work/prototypes" "$work/all.c"
grep -F "/gorge_ffi" "$work/prototypes" | grep -oE '\b[A-Za-z_0-9]+ \(' | grep -oE '^gorge_[A-Za-z_0-9]+' |
  sort -u > "$work/declared" || true
nm -D --defined-only "$library" | awk '{ print $3 }' | sort -u > "$work/exported"

status=0
for name in $(comm -23 "$work/declared" "$work/exported"); do
  echo "$header declares $name, which $library does not export" >&2
  status=1
done
for name in $(comm -13 "$work/declared" "$work/exported"); do
  echo "$library exports $name, which $header does not declare" >&2
  status=1
done
[ -s "$work/declared" ] || { echo "$header declares no function" >&2; status=1; }
exit $status
