#!/bin/sh
# Installs the Debian packages that building and testing malmend need, those that are missing only.
#
#   deploy/setup.sh [package]
#
# With `package` also what building the Debian package needs; tests/run.sh asks for it.
set -eu

packages="gcc libc6-dev meson ninja-build pkg-config
libjansson-dev libmicrohttpd-dev libopenblas-openmp-dev libpcre2-dev libsqlite3-dev libssl-dev
libutf8proc-dev libuv1-dev libcmocka-dev curl jq python3 python3-jsonschema python3-yaml"
[ "${1:-}" != package ] || packages="$packages debhelper"

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
