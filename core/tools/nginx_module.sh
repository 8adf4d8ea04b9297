#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds ngx_gorge_module.so for the nginx that is installed: nginx_module.sh BUILD
#
#   NGINX       its binary (nginx): whose configuration the module is built for
#   NGINX_SRC   source tree of the same version, that of OpenResty for instance; else the headers of Debian's nginx-dev
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
build=$1
nginx=${NGINX:-$(PATH=$PATH:/usr/sbin:/usr/local/openresty/nginx/sbin command -v nginx || true)}
source=${NGINX_SRC:-/usr/share/nginx/src}

fail() {
  echo "nginx-module: $*" >&2
  exit 1
}

[ -n "$nginx" ] || fail "there is no nginx; NGINX names its binary"
[ -x "$source/configure" ] || [ -x "$source/auto/configure" ] ||
  fail "there is no configure in $source; Debian: apt-get install nginx-dev; else NGINX_SRC names a source tree of nginx"
version=$("$nginx" -v 2>&1 | sed -n 's/^.*nginx version: [a-z]*\/\([0-9.]*\).*$/\1/p')
headers=$(sed -n 's/^#define NGINX_VERSION *"\(.*\)"$/\1/p' "$source/src/core/nginx.h")
case "$version" in
  "$headers" | "$headers".*) ;; # OpenResty adds a number of its own
  *) fail "$nginx is version $version, $source is $headers: the module would not load" ;;
esac

# What decides about the layout of nginx's structures: all that its binary was configured with but other modules and folders.
arguments=()
while read -r argument; do
  case "$argument" in
    --add-module=* | --add-dynamic-module=* | --with-*=dynamic | --*-path=* | --prefix=* | --builddir=*) ;;
    --with-pcre=* | --with-zlib=* | --with-openssl=*) ;;
    *) arguments+=("$argument") ;;
  esac
done < <("$nginx" -V 2>&1 | sed -n 's/^configure arguments: //p' | xargs -n 1 printf '%s\n')
# --with-compat is what makes a binary take modules that were built apart from it.
case " ${arguments[*]} " in
  *" --with-compat "*) ;;
  *) echo "nginx-module: $nginx was configured without --with-compat; nginx -t will tell whether it takes the module" >&2 ;;
esac

# configure writes beside itself, and compiles tests where it stands: a copy is ours.
tree=$build/nginx/src
objects=$root/$build/nginx/objs
case "$build" in /*) objects=$build/nginx/objs ;; esac
stamp="$("$nginx" -V 2>&1) $source $headers $(cksum < core/nginx/config)"
if [ "$(cat "$objects/stamp" 2> /dev/null)" != "$stamp" ] || [ ! -f "$objects/Makefile" ]; then
  rm -rf "$tree" "$objects"
  mkdir -p "$tree" "$objects"
  cp -r "$source/." "$tree/"
  configure=./configure
  [ -x "$tree/configure" ] || configure=./auto/configure
  if ! (cd "$tree" && $configure "${arguments[@]}" --builddir="$objects" --add-dynamic-module="$root/core/nginx") > "$objects/configure.log" 2>&1; then
    tail -n 20 "$objects/configure.log" >&2
    fail "configure failed: $objects/configure.log"
  fi
  printf '%s' "$stamp" > "$objects/stamp"
fi
${MAKE:-make} --no-print-directory -C "$tree" -f "$objects/Makefile" modules > "$objects/make.log" 2>&1 || {
  grep -v '^make' "$objects/make.log" | tail -n 60 >&2
  fail "the module does not compile"
}
cmp -s "$objects/ngx_gorge_module.so" "$build/ngx_gorge_module.so" || cp "$objects/ngx_gorge_module.so" "$build/ngx_gorge_module.so"
echo "nginx-module: $build/ngx_gorge_module.so for $("$nginx" -v 2>&1 | sed 's/^nginx version: //')"
