#!/bin/sh
# Installs the Debian packages that building and testing malmend need, those that are missing only.
#
#   deploy/setup.sh [package|tests]
#
# With `package` also what builds the Debian package; with `tests` beside that what only tests/run.sh
# needs: the browser that opens the dashboard (100 MB to load), clang (45 MB) for tests/fuzz, python3-venv
# for the Python packages of tests/conform, and nginx, unpacked in build/tools so that no server is started.
set -eu

packages="gcc g++ libc6-dev meson ninja-build pkg-config
libjansson-dev libmicrohttpd-dev libopenblas-openmp-dev libpcre2-dev libsqlite3-dev libssl-dev
libutf8proc-dev libuv1-dev libcmocka-dev curl jq python3 python3-jsonschema python3-yaml"
case "${1:-}" in
package) packages="$packages debhelper" ;;
tests) packages="$packages debhelper chromium-headless-shell clang-14 libclang-rt-14-dev
libomp-14-dev python3-venv" ;;
esac

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing:$missing" >&2
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

tools=$(dirname "$0")/../build/tools
[ "${1:-}" = tests ] || exit 0
[ ! -x "$tools/nginx/usr/sbin/nginx" ] || exit 0
! command -v nginx >/dev/null || exit 0
mkdir -p "$tools/deb"
cd "$tools"
fetch() { (cd deb && apt-get download -qq nginx >/dev/null 2>&1); }
if fetch || { $sudo apt-get update -qq && fetch; }; then
    dpkg-deb -x deb/nginx_*.deb nginx
else
    echo "nginx could not be fetched: the test of its example will be skipped" >&2
fi
