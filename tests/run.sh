#!/bin/bash
# Builds everything, runs every test and fuzzes each target for a minute (MALMEND_FUZZ_SECONDS; 0: not at all);
# closes with how many passed, failed and were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${MALMEND_TEST_BUILD:-build/tests}
sh deploy/setup.sh tests
# Hundreds of programs are linked: by the faster linker, and without what only a debugger reads.
! command -v ld.gold >/dev/null || export CC_LD=gold CXX_LD=gold
[ -f "$build/build.ninja" ] ||
    meson setup "$build" --werror -Dbuildtype=debugoptimized -Ddebug=false
ninja -C "$build"
code=0
# The limits are for what hangs, not for a slow machine. Three beside each other: some wait.
meson test -C "$build" --no-rebuild --print-errorlogs --num-processes 3 --timeout-multiplier 4 "$@" ||
    code=$?
# What is found depends on the machine as little as it can; tests/fuzz/run.sh looks further.
fuzz=0
seconds=${MALMEND_FUZZ_SECONDS:-60}
[ $# -gt 0 ] || [ "$seconds" = 0 ] || SEED=1 tests/fuzz/run.sh "$seconds" || fuzz=$?
[ $fuzz = 0 ] || [ $fuzz = 77 ] || code=$fuzz # 77: there is no clang
python3 tests/count.py "$build/meson-logs/testlog.junit.xml" || code=$?
exit "$code"
