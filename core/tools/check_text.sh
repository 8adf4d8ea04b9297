#!/bin/bash
# SPDX-License-Identifier: MIT
# Rules for sources that no other tool knows: a licence line, files short enough to read, nothing put off.
set -u

status=0
report() {
  echo "$*" >&2
  status=1
}

files=$(find core lua spec examples rockspec .ci -type f \
  \( -name '*.[ch]' -o -name '*.lua' -o -name '*.sh' -o -name '*.rockspec' -o -perm -u+x \) 2> /dev/null | sort)

for file in $files; do
  head -n 3 "$file" | grep -q 'SPDX-License-Identifier: MIT' || report "$file:1: no SPDX-License-Identifier: MIT"
  case $file in
    core/test/* | spec/*) continue ;; # a list of cases is as long as it is
  esac
  lines=$(wc -l < "$file")
  [ "$lines" -le 500 ] || report "$file:1: $lines lines; 500 are the limit: cut it along its seams"
done

# shellcheck disable=SC2086
pending=$(grep -nE '\b(TODO|FIXME|XXX)\b' $files README.md CHANGELOG.md Makefile 2> /dev/null | grep -v '^core/tools/check_text.sh:')
[ -z "$pending" ] || report "$pending"

# shellcheck disable=SC2086
blanks=$(grep -nE '[[:blank:]]+$' $files Makefile 2> /dev/null)
[ -z "$blanks" ] || report "blanks at the end of a line: $blanks"

calls=$(grep -nE '\b(abort|exit|_exit|quick_exit|longjmp|assert)[[:blank:]]*\(' \
  core/{base,shm,sync,backlog,l1,flight,resil,proto,tls,io,drive,engine,api}/*.[ch] 2> /dev/null | grep -vE '^[^:]+:[0-9]+:[[:blank:]]*(/?\*|//)')
[ -z "$calls" ] || report "the library may not end its host's process: $calls"

exit $status
