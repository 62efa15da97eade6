#!/bin/sh
# Builds the Debian package from a copy of the source.
#
#   deploy/build-deb.sh [--prebuilt BINARY] [DIRECTORY]
#
# The packages come into DIRECTORY (build/deb). Without --prebuilt everything is compiled, without CUDA
# and without the tests; with it BINARY is packaged, which must have been linked against Debian's
# libraries: everything but the compiler's work is done all the same.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
prebuilt='' out=''
while [ $# -gt 0 ]; do
    case $1 in
    --prebuilt)
        [ $# -ge 2 ] || { echo "build-deb.sh: --prebuilt needs a file" >&2; exit 2; }
        prebuilt=$(readlink -f "$2")
        shift
        ;;
    -*) echo "Usage: build-deb.sh [--prebuilt BINARY] [DIRECTORY]" >&2; exit 2 ;;
    *) out=$1 ;;
    esac
    shift
done
out=${out:-$source/build/deb}
command -v dh >/dev/null || { echo "build-deb.sh: debhelper is not installed" >&2; exit 1; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/malmend" "$out"
for part in core cuda daemon deploy proto sql meson.build meson_options.txt README.md; do
    cp -a "$source/$part" "$stage/malmend/"
done
cp -a "$source/deploy/debian" "$stage/malmend/debian"
cd "$stage/malmend"
if [ -n "$prebuilt" ]; then
    export MALMEND_PREBUILT="$prebuilt"
    dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
else
    dpkg-buildpackage --build=binary --no-sign
fi
mv "$stage"/*.deb "$stage"/*.buildinfo "$stage"/*.changes "$out/"
ls "$out"/malmend_*.deb
