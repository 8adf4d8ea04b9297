#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds and tests all of the project in Debian 13, in a chroot below TRIXIE that is kept for the next run; remove that folder (make clean does,
# too) to begin anew. Then the tests that need a Redis once more with the servers of TRIXIE_SERVERS, each the name of a program.
# Needs root. TRIXIE_RUN="command": runs that there, in the copy of the sources, instead of the tests.
#
# What is mounted is mounted in a namespace that ends with this program: nothing of it is ever seen, or left behind, outside.
set -u
cd "$(dirname "$0")/../.." || exit 2

TRIXIE=$(realpath -m "${TRIXIE:-${BUILD:-build}/trixie}")
TRIXIE_SERVERS=${TRIXIE_SERVERS:-valkey-server}
root=$TRIXIE/root

fail() {
  echo "trixie: $*" >&2
  exit 2
}

# The mirrors of the host's own lists: suite by suite, in the form that apt takes.
sources() {
  local main security
  main=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' | sed -n 's/^Debian //p' | head -n 1)
  security=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' | sed -n 's/^Debian-Security //p' | head -n 1)
  [ -n "$main" ] || fail "the host's lists of sources name no mirror of Debian; apt-get update has to have run once"
  echo "deb $main trixie main"
  [ -z "$security" ] || echo "deb $security trixie-security main"
}

# A system without packages of ours. It gets its name when it is whole.
make_system() {
  local mirror
  mirror=$(sources | awk 'NR == 1 { print $2 }') && [ -n "$mirror" ] || exit 2
  echo "trixie: making Debian 13 in $root"
  rm -rf "$root.new"
  debootstrap --variant=minbase trixie "$root.new" "$mirror" > "$TRIXIE/debootstrap.log" 2>&1 || {
    tail -n 20 "$TRIXIE/debootstrap.log" >&2
    fail "debootstrap failed"
  }
  sources > "$root.new/etc/apt/sources.list"
  apt-config dump | grep -i '::proxy' > "$root.new/etc/apt/apt.conf.d/90proxy"
  mv "$root.new" "$root"
}

# In the namespace: what programs expect of a system.
mount_system() {
  local node
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
  done
  mkdir "$root/dev/shm" "$root/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  cp -L /etc/hosts "$root/etc/hosts"
}

# The sources as they are here; what was built there stays, for make to go on from. A file is as new as its content is there: here it may
# have changed while what it was before was being compiled there.
copy_sources() {
  local new=$root/src.new file
  rm -rf "$new" && mkdir -p "$new" "$root/src"
  tar -cf - --exclude=./.git --exclude=./build --exclude="$TRIXIE" . | tar -C "$new" -xmf - --no-same-owner || return
  while IFS= read -r -d '' file; do
    cmp -s "$root/src/$file" "$new/$file" && touch -r "$root/src/$file" "$new/$file"
  done < <(cd "$new" && find . -type f -print0)
  [ ! -d "$root/src/build" ] || mv "$root/src/build" "$new/build"
  rm -rf "$root/src" && mv "$new" "$root/src"
}

inside() {
  chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    JOBS="${JOBS:-$(nproc)}" "${@:2}" /bin/bash -c "cd /src && $1" < /dev/null
}

# run NAME COMMAND VARIABLE...: tells what it printed as it comes; its total counts.
passed=0 failed=0
run() {
  local log=$TRIXIE/$1.log total status
  echo "trixie: $1"
  inside "$2" "${@:3}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  total=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1 | tr -dc '0-9 ')
  # shellcheck disable=SC2086
  set -- ${total:-0 1}
  passed=$((passed + $1)) failed=$((failed + $2))
  [ "$status" -eq 0 ] || [ "$2" -gt 0 ] || failed=$((failed + 1))
}

# The tests that are about a Redis: need_redis c|lua
need_redis() {
  case $1 in
    c) echo "make test-c DEPS=no TESTS='$(grep -lE 'support_redis|link_begin' core/test/test_*.c | sed -E 's|.*/(.*)\.c|\1|' | tr '\n' ' ')'" ;;
    lua) echo "make test-lua DEPS=no SPECS='$(find spec/redis spec/fault -name '*_spec.lua' | sort | tr '\n' ' ')'" ;;
  esac
}

versions() {
  inside "dpkg-query -W -f '\${Package} \${Version}\n' gcc nginx libnginx-mod-http-lua luajit libhiredis-dev libssl-dev redis-server valkey-server" |
    awk '{ printf "%s%s %s", NR == 1 ? "trixie: " : ", ", $1, $2 } END { print "" }'
}

if [ "${1:-}" != inside ]; then
  [ "$(id -u)" -eq 0 ] || fail "needs root, to make a system and to enter it: sudo make test-trixie"
  command -v debootstrap > /dev/null && command -v unshare > /dev/null || fail "needs debootstrap and unshare (make deps-trixie)"
  mkdir -p "$TRIXIE"
  exec 9> "$TRIXIE/lock" # held until the last program inside has ended
  flock -n 9 || fail "another run is using $TRIXIE"
  [ -d "$root" ] || make_system
  export TRIXIE TRIXIE_SERVERS
  unshare --mount --pid --ipc --fork --kill-child --mount-proc "$0" inside < /dev/null &
  trap 'kill -KILL $!; exit 130' INT TERM HUP # with it everything ends that runs inside
  wait $!
  exit
fi

mount_system && copy_sources || fail "the system in $root cannot be entered; remove it to begin anew"
inside "core/tools/deps.sh run dev valkey" || fail "not all packages could be installed"
versions
if [ -n "${TRIXIE_RUN:-}" ]; then
  inside "$TRIXIE_RUN"
  exit
fi
run test "make test DEPS=no"
for server in $TRIXIE_SERVERS; do
  for part in c lua; do
    run "$server-$part" "$(need_redis "$part")" REDIS_SERVER="$server"
  done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
