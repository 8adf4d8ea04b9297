#!/bin/bash
# SPDX-License-Identifier: MIT
# Installs the Debian packages that are missing: deps.sh GROUP...   Groups: run (build, use, demo), module (ngx_gorge_module), dev (tests, lint),
# valkey (the tests with that instead of Redis), trixie (a Debian 13 to test in).
# When nothing is missing it calls nothing but dpkg-query. Servers that it installs are not started, now or at boot.
set -u

# OpenResty's branch of LuaJIT: Debian 12 has it beside another one, Debian 13 has it alone.
luajit="luajit libluajit-5.1-dev"
grep -qs '^VERSION_ID="12"' /etc/os-release && luajit="luajit2 libluajit2-5.1-dev"

run="gcc libc6-dev make libhiredis-dev libev-dev libssl-dev libxxhash-dev $luajit lua-cjson lua-argparse
  nginx libnginx-mod-http-lua lua-resty-core lua-resty-lrucache redis-server lua-socket wrk procps ca-certificates"
module="gcc libc6-dev make nginx nginx-dev"
dev="$module git binutils zlib1g-dev libcmocka-dev lua-busted lua-socket luarocks util-linux openssl
  lua-check clang-format clang-tidy cppcheck clang libclang-rt-dev spin prometheus chromium python3 python3-msgpack python3-xxhash
  doxygen"
valkey="valkey-server"
trixie="debootstrap util-linux"

fail() {
  echo "deps: $*" >&2
  echo "deps: install by hand: ${missing:-$wanted}" >&2
  exit 1
}

wanted=
missing=
for group in "$@"; do
  case $group in
    run) wanted="$wanted $run" ;;
    module) wanted="$wanted $module" ;;
    dev) wanted="$wanted $dev" ;;
    valkey) wanted="$wanted $valkey" ;;
    trixie) wanted="$wanted $trixie" ;;
    *) echo "deps: no such group: $group" >&2; exit 2 ;;
  esac
done
wanted=$(echo $wanted)

command -v dpkg-query > /dev/null || fail "this is not a Debian system (make DEPS=no skips this step)"
for package in $wanted; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
done
missing=$(echo $missing)
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo > /dev/null || fail "not root, and there is no sudo"
  as_root=sudo
  sudo -n true 2> /dev/null || [ -t 0 ] || fail "not root, and sudo asks for a password"
fi

# Debian starts a server when it is installed and asks this file first. Where the machine has one, its own rules hold.
policy=/usr/sbin/policy-rc.d
own_policy=
drop_policy() {
  [ -z "$own_policy" ] || $as_root rm -f "$policy"
  own_policy=
}
trap drop_policy EXIT
trap 'exit 130' INT TERM
if ! [ -e "$policy" ]; then
  own_policy=yes
  printf '%s\n' '#!/bin/sh' 'case "$*" in *nginx* | *redis* | *valkey* | *prometheus*) exit 101 ;; esac' 'exit 0' | $as_root tee "$policy" > /dev/null
  $as_root chmod 755 "$policy"
fi

# --no-remove: a package of the user's that conflicts (luajit with luajit2) is the user's to remove.
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
    install --no-install-recommends --no-remove $missing < /dev/null
}
known() {
  for package in $missing; do
    apt-cache policy "$package" 2> /dev/null | grep -q 'Candidate: [^(]' || return 1
  done
}

echo "deps: installing $missing"
updated=
update() {
  $as_root apt-get -q -o DPkg::Lock::Timeout=300 update < /dev/null
  updated=yes
}
known || update
if ! install; then
  # A package list that is out of date names files that are gone from the mirror.
  [ -z "$updated" ] && update && install || fail "apt-get could not install everything"
fi
drop_policy

for service in nginx redis-server valkey-server prometheus; do
  case " $missing " in
    *" $service "*)
      if [ -d /run/systemd/system ]; then
        $as_root systemctl disable --now "$service.service" > /dev/null 2>&1
      else
        $as_root update-rc.d "$service" disable > /dev/null 2>&1
      fi
      ;;
  esac
done
exit 0
