#!/bin/bash
# Builds everything and runs every test; closes with how many passed, failed and were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${MALMEND_TEST_BUILD:-build/tests}
sh deploy/setup.sh tests
[ -f "$build/build.ninja" ] || meson setup "$build" --werror -Dbuildtype=debugoptimized
ninja -C "$build"
code=0
# the limits are for what hangs, not for a slow machine
meson test -C "$build" --no-rebuild --print-errorlogs --num-processes 2 --timeout-multiplier 4 "$@" ||
    code=$?
python3 tests/count.py "$build/meson-logs/testlog.junit.xml" || code=$?
exit "$code"
