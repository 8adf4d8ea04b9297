#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs fuzz targets one after the other, each for so many seconds: fuzz.sh SECONDS TARGET...
#
# The corpus grows in $BUILD/fuzz/corpus and is used again. What makes a target fail is kept beside it, with the command that
# repeats it. The last line is the total: "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 2

BUILD=${BUILD:-build}
MAKE=${MAKE:-make}
JOBS=${JOBS:-$(nproc)}
seconds=$1
shift
passed=0 failed=0

"$MAKE" --no-print-directory -k -j"$JOBS" fuzz-programs > "$BUILD.fuzz.log" 2>&1
status=$?
mkdir -p "$BUILD/fuzz"
mv "$BUILD.fuzz.log" "$BUILD/fuzz/make.log"
[ "$status" -eq 0 ] || grep -vE '^(cc|link) ' "$BUILD/fuzz/make.log" | tail -n 100

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
for target in "$@"; do
  corpus=$BUILD/fuzz/corpus/$target found=$BUILD/fuzz/found/$target- log=$BUILD/fuzz/$target.log
  mkdir -p "$corpus" "$(dirname "$found")"
  # An input that takes 10 s is a hang; no input needs 512 MB, no single allocation 64.
  timeout -k 10 $((seconds + 60)) "$BUILD/fuzz/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 \
    -malloc_limit_mb=64 -max_len=4096 -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$found" "$corpus" > "$log" 2>&1 < /dev/null
  status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ "$status" -eq 0 ]; then
    passed=$((passed + 1))
    echo "ok   $target: ${runs:-0} inputs in $seconds s, $(find "$corpus" -type f | wc -l) kept"
  else
    failed=$((failed + 1))
    echo "FAIL $target (status $status); repeat: $BUILD/fuzz/$target $(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1)"
    grep -vE '^#[0-9]+' "$log" | tail -n 60 | sed 's/^/  | /'
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
