#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds and runs test suites, all of them to their end: test.sh [c] [asan] [tsan] [fuzz] [model] [lua] [module] [all-module]
#
# Every cmocka program and every spec file runs in a process of its own, so that a crash costs one file's results only.
# A program that crashes, hangs, leaves no count or runs no test is a failure. The last line printed is the total:
# "N passed, N failed" (", N skipped" when some were); the exit status is 0 only when nothing failed.
set -u
cd "$(dirname "$0")/../.." || exit 2

BUILD=${BUILD:-build}
MAKE=${MAKE:-make}
C_TIMEOUT=${C_TIMEOUT:-300}
SPEC_TIMEOUT=${SPEC_TIMEOUT:-300}
FUZZ_SECONDS=${FUZZ_SECONDS:-4}
JOBS=${JOBS:-$(nproc)}

logs=$BUILD/test/logs
passed=0 failed=0 skipped=0
failures=() details=() # what failed, and what its log says of it

mkdir -p "$logs"

# failure WHAT LOG: told again at the end.
failure() {
  failures+=("$1")
  details+=("$(awk -f core/tools/what_failed.awk "$2")")
}

# The last lines of a long log are what is kept of it: they say what failed and why, in 120 lines beside the names.
tell_failures() {
  local i line left=120
  [ "${#failures[@]}" -gt 0 ] || return 0
  printf '\nfailed:\n'
  for i in "${!failures[@]}"; do
    printf '  %s\n' "${failures[$i]}"
    while IFS= read -r line; do
      [ -z "$line" ] || [ "$((left--))" -le 0 ] || printf '    | %s\n' "$line"
    done <<< "${details[$i]}"
  done
}

# count NAME PASSED FAILED SKIPPED STATUS LOG SECONDS: one program's result, told in one line; its log when it failed.
count() {
  local name=$1 p=$2 f=$3 s=$4 status=$5 log=$6 seconds=$7 why=
  if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    why="timed out or was killed"
  elif [ "$status" -gt 128 ]; then
    why="died of signal $((status - 128))"
  elif [ $((p + f + s)) -eq 0 ]; then
    why="ran no test (status $status)"
  elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
    why="ended with status $status"
  fi
  # What is known to have failed is counted; a program that went wrong in another way fails as a whole.
  if [ -n "$why" ] && [ "$f" -eq 0 ]; then f=1; fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  if [ "$f" -gt 0 ]; then
    failure "$name: $f failed${why:+, $why}" "$log"
    echo "FAIL $name: $p passed, $f failed${why:+, $why} (${seconds}s)"
    grep -vE '^(\[ RUN      \]|\[       OK \]|\[----------\])' "$log" | tail -n 400 | sed 's/^/  | /'
  else
    echo "ok   $name: $p passed$([ "$s" -gt 0 ] && echo ", $s skipped") (${seconds}s)"
  fi
}

# The tests that a group announces and that are neither reported OK nor skipped have failed, reached or not.
count_cmocka() {
  awk '
    /\[==========\] (.*: )?Running [0-9]+ test/ { match($0, /Running [0-9]+/); n += substr($0, RSTART + 8, RLENGTH - 8); on = 1 }
    /\[==========\] (.*: )?[0-9]+ test\(s\) run/ { on = 0 }
    on && /\[       OK \] / { ok++ }
    on && /\[  SKIPPED \] / { skip++ }
    END { print ok + 0, n - ok - skip, skip + 0 }' "$1"
}

count_busted() {
  awk '
    /^\[==========\] [0-9]+ tests? from/ { on = 1 }
    on && /^\[  PASSED  \] [0-9]+ test/ { p = $4 }
    on && /^\[ SKIPPED  \] [0-9]+ test/ { s = $4 }
    on && /^\[  FAILED  \] [0-9]+ test/ { f += $4 }
    on && /^\[  ERROR   \] [0-9]+ error/ { f += $4 }
    END { print p + 0, f + 0, s + 0 }' "$1"
}

# broken WHAT: what it is about does not build, or is not there.
broken() {
  failed=$((failed + 1))
  failure "$1" "$logs/make.log"
  echo "FAIL $1"
}

build() {
  "$MAKE" --no-print-directory -k -j"$JOBS" "$@" > "$logs/make.log" 2>&1 || {
    grep -vE '^(gcc|clang|cc) ' "$logs/make.log" | tail -n 200 | sed 's/^/  | /'
    return 1
  }
}

run_c() {
  local variant=$1 name program log status start
  local names all=yes
  build "test-programs-$variant" || all=
  names=$("$MAKE" --no-print-directory -s "list-$variant")
  for name in $names; do
    program=$BUILD/test/$variant/$name
    log=$logs/$variant.$name.log
    # An old program must not stand in for one that no longer builds.
    if [ -z "$all" ] && ! "$MAKE" --no-print-directory -s "$program" > /dev/null 2>&1; then
      broken "$variant/$name: does not build"
      continue
    fi
    [ "${program#/}" != "$program" ] || program=./$program
    start=$SECONDS
    # ThreadSanitizer of gcc 12 cannot map its memory where the kernel randomises addresses widely.
    timeout -k 10 "$C_TIMEOUT" $([ "$variant" = tsan ] && setarch -R true 2> /dev/null && echo setarch -R) "$program" \
      > "$log" 2>&1 < /dev/null
    status=$?
    # shellcheck disable=SC2046
    count "$variant/$name" $(count_cmocka "$log") "$status" "$log" $((SECONDS - start))
  done
  [ -n "$names" ] || [ "$variant" = tsan ] || broken "$variant: there is no test program"
}

# Each fuzz target for a few seconds, from an empty corpus: that the properties hold for what is found at once.
run_fuzz() {
  local log=$logs/fuzz.log start=$SECONDS total
  rm -rf "$BUILD/fuzz/corpus"
  # shellcheck disable=SC2046
  core/tools/fuzz.sh "$FUZZ_SECONDS" $("$MAKE" --no-print-directory -s list-fuzz) > "$log" 2>&1
  local status=$?
  total=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1 | tr -dc '0-9 ')
  # shellcheck disable=SC2086
  count fuzz ${total:-0 0} 0 "$status" "$log" $((SECONDS - start))
}

# The models that are quick; make model runs all.
run_model() {
  local log=$logs/model.log start=$SECONDS total
  core/tools/model.sh read tags > "$log" 2>&1
  local status=$?
  total=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1 | tr -dc '0-9 ')
  # shellcheck disable=SC2086
  count model ${total:-0 0} 0 "$status" "$log" $((SECONDS - start))
}

spec_log() {
  echo "$logs/$(echo "${1%.lua}" | tr / .).log"
}

# run_spec FILE: runs one, then prints its name, its status and the seconds it took.
run_spec() {
  local start=$SECONDS
  timeout -k 10 "$SPEC_TIMEOUT" luajit /usr/bin/busted -o gtest -Xoutput --plain "$1" > "$(spec_log "$1")" 2>&1 < /dev/null
  echo "$1 $? $((SECONDS - start))"
}
export -f spec_log run_spec
export logs SPEC_TIMEOUT GORGE_BUILD=$BUILD

# run_specs JOBS FILE...
run_specs() {
  local jobs=$1 file log status seconds
  shift
  while read -r file status seconds; do
    log=$(spec_log "$file")
    # shellcheck disable=SC2046
    count "${GORGE_NGINX_MODULE:+module/}$file" $(count_busted "$log") "$status" "$log" "$seconds"
  done < <(printf '%s\n' "$@" | xargs -r -P "$jobs" -I{} bash -c 'run_spec {}')
}

run_lua() {
  local files=${SPECS:-} dir
  build build || broken "lua: the library does not build"
  if [ -z "$files" ]; then
    for dir in unit ffi redis nginx cli fault history; do
      [ ! -d "spec/$dir" ] || files="$files $(find "spec/$dir" -name '*_spec.lua' | sort | tr '\n' ' ')"
    done
  fi
  # Specs wait more than they work, so that as many run side by side as there are processors, but for those that say otherwise.
  # shellcheck disable=SC2046,SC2086
  run_specs "$JOBS" $(grep -L '^-- Runs alone' $files)
  # shellcheck disable=SC2046,SC2086
  run_specs 1 $(grep -l '^-- Runs alone' $files)
  [ -n "$files" ] || broken "lua: there is no spec"
}

# run_module FILE...: specs in nginx with ngx_gorge_module loaded. They count and log apart from the same specs without it.
run_module() {
  local all=$logs
  logs=$all/module
  mkdir -p "$logs"
  if build build nginx-module DEPS=no; then
    export GORGE_NGINX_MODULE=$BUILD/ngx_gorge_module.so
    # shellcheck disable=SC2046
    run_specs "$JOBS" $(grep -L '^-- Runs alone' "$@")
    # shellcheck disable=SC2046
    run_specs 1 $(grep -l '^-- Runs alone' "$@")
    unset GORGE_NGINX_MODULE
  else
    broken "module: does not build"
  fi
  logs=$all
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-second_deadlock_stack=1:die_after_fork=0}
unset CMOCKA_MESSAGE_OUTPUT CMOCKA_XML_FILE GORGE_LIBRARY LUA_PATH LUA_CPATH LUA_INIT

for suite in "$@"; do
  case $suite in
    c) run_c opt ;;
    asan | tsan) run_c "$suite" ;;
    fuzz) run_fuzz ;;
    model) run_model ;;
    lua) run_lua ;;
    # What the module does itself: waits, wake-ups, deadlines, connections, the end of workers.
    module) run_module spec/module/*_spec.lua spec/nginx/{abandon,every_phase,fetch_many,stampede,stood_still}_spec.lua spec/fault/redis_outage_spec.lua ;;
    # shellcheck disable=SC2086
    all-module) run_module ${SPECS:-spec/module/*_spec.lua spec/nginx/*_spec.lua spec/fault/*_spec.lua spec/redis/tls_spec.lua} ;;
    *) echo "test.sh: no such suite: $suite" >&2; exit 2 ;;
  esac
done

tell_failures
total="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || total="$total, $skipped skipped"
echo "$total"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
