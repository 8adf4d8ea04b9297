#!/bin/bash
# SPDX-License-Identifier: MIT
# Static checks, all of them, whatever the first ones find. Exit status 0 only when none has anything to say.
set -u
cd "$(dirname "$0")/../.." || exit 2

BUILD=${BUILD:-build}
MAKE=${MAKE:-make}
JOBS=${JOBS:-$(nproc)}
CPPCHECK_CACHE=$BUILD/lint/cppcheck
failed=()
mkdir -p "$CPPCHECK_CACHE"

library=$(find core -path core/tools -prune -o -name '*.c' -print | grep -E '^core/(base|shm|sync|backlog|l1|flight|resil|proto|tls|io|drive|engine|api)/' | sort)
others=$(find core -name '*.c' | grep -E '^core/(test|bench|fuzz|fault)/' | sort)
module=$(find core/nginx -name '*.c' | sort)
headers=$(find core -name '*.h' | sort)
lua=$(find lua spec examples core/tools rockspec -name '*.lua' -o -name '*.rockspec' 2> /dev/null | sort)

# step NAME COMMAND...: runs a check and remembers whether it found something.
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" > "$BUILD/lint/$name.log" 2>&1; then
    echo "ok   lint: $name ($((SECONDS - start))s)"
  else
    failed+=("$name")
    echo "FAIL lint: $name ($((SECONDS - start))s)"
    grep -vE '^([0-9]+ warnings? (generated|treated)|Suppressed|Use -header-filter)' "$BUILD/lint/$name.log" | tail -n 300 | sed 's/^/  | /'
  fi
}

tidy() {
  # One file a process: that is what spreads over the cores.
  echo "$@" | tr ' ' '\n' | xargs -P "$JOBS" -I{} clang-tidy --quiet {} -- -std=gnu11 -D_GNU_SOURCE= -Wall -Wextra -Icore -Icore/include
}

# The module is held against nginx's own headers, as they were configured for it.
tidy_module() {
  local tree=$BUILD/nginx/src includes= dir
  for dir in "$tree/src/core" "$tree/src/event" "$tree/src/os/unix" "$BUILD/nginx/objs"; do
    includes="$includes -isystem $dir"
  done
  # shellcheck disable=SC2086
  for file in "$@"; do
    clang-tidy --quiet "$file" -- -std=gnu11 -Wall -Wextra -Icore/include -Icore/nginx $includes || return 1
  done
}

# shellcheck disable=SC2086
{
  step build "$MAKE" --no-print-directory -k -j"$JOBS" build
  step nginx-module "$MAKE" --no-print-directory nginx-module DEPS=no
  step format clang-format --dry-run -Werror $library $module $others $headers
  step includes luajit core/tools/check_includes.lua $library $module $others $headers
  step atomics luajit core/tools/check_atomics.lua $library $headers
  step exports core/tools/check_exports.sh "$BUILD/libgorge.so" core/include/gorge.h
  step text core/tools/check_text.sh
  step luacheck luacheck --quiet $lua
  step docs "$MAKE" --no-print-directory docs DEPS=no
  # uninitvar and returnDanglingLifetime of cppcheck 2.10 stumble over pointers in structs; gcc and clang-tidy know both.
  step cppcheck cppcheck --quiet --std=c11 --language=c -D_GNU_SOURCE= -j "$JOBS" --cppcheck-build-dir="$CPPCHECK_CACHE" \
    --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --suppress=missingIncludeSystem \
    --suppress=uninitvar --suppress=returnDanglingLifetime --suppress='*:/usr/include/*' -Icore -Icore/include $library
  step tidy tidy $library
  step tidy-module tidy_module $module
  [ -z "$others" ] || step tidy-tests tidy $others
}

if [ "${#failed[@]}" -gt 0 ]; then
  echo "lint: ${failed[*]}: found something" >&2
  exit 1
fi
