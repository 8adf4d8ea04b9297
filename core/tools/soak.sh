#!/bin/bash
# SPDX-License-Identifier: MIT
# Long runs, all of them to their end: soak.sh [PART...]; without a part, all:
#
#   kill     SIGKILL at every instruction of every operation on shared memory         minutes
#   stop     SIGSTOP at the same places, in every way of invalidating beside it       half an hour
#   reads    10^9 reads with a checksum beside kills, stops, writes and evictions     half an hour
#   workers  10,000 workers of nginx killed under load, twice                         half an hour
#   reconnects  1,000 connections to Redis closed: nothing grows                      minutes
#   history  10^7 operations of several nodes under faults of all kinds, checked      half an hour
#
# GORGE_FAULT_SEED repeats a run of the first two; GORGE_FAULT_OP, GORGE_FAULT_FROM and GORGE_FAULT_TO pick an operation and
# places of it; GORGE_HISTORY_SEED repeats the faults of a history. GORGE_SOAK_READS, GORGE_SOAK_KILLS and GORGE_SOAK_OPS are numbers
# to reach. What is printed is kept in $BUILD/soak, too.
set -u
cd "$(dirname "$0")/../.." || exit 2

BUILD=${BUILD:-build}
MAKE=${MAKE:-make}
JOBS=${JOBS:-$(nproc)}
passed=0 failed=0
mkdir -p "$BUILD/soak"
[ "${BUILD#/}" != "$BUILD" ] || BUILD=./$BUILD
unset LUA_PATH LUA_CPATH LUA_INIT GORGE_LIBRARY

# run PART COMMAND...
run() {
  local part=$1 start=$SECONDS status
  shift
  echo "soak: $part"
  "$@" 2>&1 < /dev/null | tee "$BUILD/soak/$part.log" | grep -avE '^(\[ RUN      \]|\[       OK \]|\[----------\])'
  status=${PIPESTATUS[0]}
  if [ "$status" -eq 0 ]; then
    passed=$((passed + 1))
    echo "ok   soak: $part ($((SECONDS - start))s)"
  else
    failed=$((failed + 1))
    echo "FAIL soak: $part: status $status ($((SECONDS - start))s)"
  fi
}

[ "$#" -gt 0 ] || set -- kill stop reads workers reconnects history
programs="test_stepped_kill test_stepped_stop test_l1_procs"
# shellcheck disable=SC2086
"$MAKE" --no-print-directory -j"$JOBS" build $(printf "$BUILD/test/opt/%s " $programs) > "$BUILD/soak/make.log" 2>&1 || {
  tail -n 50 "$BUILD/soak/make.log"
  exit 1
}

for part in "$@"; do
  case $part in
    kill | stop) run "$part" env GORGE_FAULT_ALL=1 "$BUILD/test/opt/test_stepped_$part" ;;
    reads) run reads env GORGE_SOAK_READS="${GORGE_SOAK_READS:-1000000000}" "$BUILD/test/opt/test_l1_procs" ;;
    workers)
      run workers env GORGE_BUILD="$BUILD" GORGE_SOAK_KILLS="${GORGE_SOAK_KILLS:-10000}" \
        luajit /usr/bin/busted -o gtest -Xoutput --plain spec/soak/worker_kills_spec.lua
      ;;
    reconnects)
      run reconnects env GORGE_BUILD="$BUILD" GORGE_SOAK_RECONNECTS=1000 \
        luajit /usr/bin/busted -o gtest -Xoutput --plain spec/fault/connection_spec.lua
      ;;
    history)
      run history env GORGE_BUILD="$BUILD" MAKE="$MAKE" GORGE_SOAK_OPS="${GORGE_SOAK_OPS:-10000000}" \
        luajit /usr/bin/busted -o gtest -Xoutput --plain spec/history/history_spec.lua spec/history/broken_spec.lua
      ;;
    *)
      echo "soak.sh: no such part: $part" >&2
      exit 2
      ;;
  esac
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
