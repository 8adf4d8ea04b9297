#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs the spin models of core/test/model: model.sh [full] [NAME...]
#
# A model's head says what it must show, a line each:
#   holds [full] FLAGS   remark     no interleaving breaks a property
#   fails [full] FLAGS   remark     with a step left out one does: the model would notice
# FLAGS are the -D words. Lines with `full` run only when asked for. Every line is one test; the last line printed is the total.
set -u
cd "$(dirname "$0")/../test/model" || exit 2

JOBS=${JOBS:-$(nproc)}
LIMIT=${LIMIT:-600} # seconds a line may take
MEMORY_MB=${MEMORY_MB:-6000}
full=
[ "${1:-}" != full ] || { full=yes; shift; }
models=${*:-$(grep -lE '^ \* (holds|fails)' ./*.pml | sed 's|.*/||; s|\.pml$||')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run MODEL WANTED FLAGS...: prints one line that begins with ok or FAIL.
run() {
  local model=$1 wanted=$2 dir start=$SECONDS found states
  shift 2
  dir=$(mktemp -d "$work/XXXXXX")
  cp ./*.pml "$dir"
  cd "$dir" || return
  if ! spin "$@" -a "$model.pml" > spin.log 2>&1 ||
    ! gcc $([ -n "$full" ] && echo -O2 || echo -O0) -w -DSAFETY -DCOLLAPSE -DNOREDUCE -DMEMLIM="$MEMORY_MB" -o pan pan.c 2>> spin.log; then
    echo "FAIL $model $*: cannot be built: $(tail -n 1 spin.log)"
    return
  fi
  timeout "$LIMIT" ./pan -m1000000 > pan.log 2>&1
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log | tail -n 1)
  if ! grep -q 'errors: ' pan.log || grep -qE 'max search depth too small|reached -DMEMLIM|aborting' pan.log; then
    found="nothing: it did not come to its end"
  elif grep -q 'errors: 0$' pan.log; then
    found=holds
  elif grep -q 'assertion violated history_fits' pan.log; then
    found="nothing: HIST is too small"
  elif grep -qE '^pan:1: (assertion violated|invalid end state)' pan.log; then
    found=fails
  else
    found="nothing: it went wrong"
  fi
  if [ "$found" = "$wanted" ]; then
    echo "ok   $model $*: $wanted, ${states:-?} states ($((SECONDS - start))s)"
  else
    echo "FAIL $model $*: should say $wanted, said $found, ${states:-?} states ($((SECONDS - start))s)"
  fi
  cd / && rm -rf "$dir"
}
export -f run
export work LIMIT MEMORY_MB full

for model in $models; do
  sed -n 's/^ \* \(holds\|fails\)/\1/p' "$model.pml" | while read -r wanted words; do
    flags=
    skip=
    for word in $words; do
      case $word in
        full) [ -n "$full" ] || skip=yes ;;
        -D*) flags="$flags $word" ;;
        *) break ;;
      esac
    done
    [ -n "$skip" ] || echo "$model $wanted$flags"
  done
done > "$work/lines"
[ -s "$work/lines" ] || { echo "model.sh: no lines to run" >&2; exit 2; }

# shellcheck disable=SC2016
xargs -P "$JOBS" -I{} bash -c 'run {}' < "$work/lines" | tee "$work/results"
passed=$(grep -c '^ok ' "$work/results")
wanted=$(wc -l < "$work/lines")
echo "$passed passed, $((wanted - passed)) failed"
[ "$passed" -eq "$wanted" ]
