#!/bin/sh
# Prints the path of promtool, which Prometheus checks its own files with: one that is installed, or
# that of Debian's package, unpacked into the given folder and kept there. The package is not
# installed, as it would start a server.
set -eu

if command -v promtool; then exit; fi
folder=$1
tool=$folder/promtool
if [ ! -x "$tool" ]; then
    scratch=$(mktemp -d "$folder/promtool-XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    (
        cd "$scratch"
        if ! apt-get download -qq prometheus; then
            sudo=
            [ "$(id -u)" = 0 ] || sudo="sudo -n"
            $sudo apt-get update -qq
            apt-get download -qq prometheus
        fi
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool
        chmod +x promtool
        ./promtool --version
    ) >&2
    mv "$scratch/promtool" "$tool"
fi
echo "$tool"
