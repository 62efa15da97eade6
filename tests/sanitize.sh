#!/bin/bash
# Builds with a sanitizer and runs the tests of the daemon: tests/sanitize.sh thread|address [TEST...]
# Without names: all of suite http, and stories of the real binary. A report ends the process it is
# about, and with it the test.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
thread) sanitize=thread ;;
address) sanitize=address,undefined ;;
*)
    echo "usage: $0 thread|address [TEST...]" >&2
    exit 2
    ;;
esac
build=build/$1
shift
tests=("$@")
[ $# -gt 0 ] || tests=(
    http-{audit,auth,bulk,calls,changes,errors,evaluations,events,http,kill,log,metrics,queue}
    http-{requests,service,slow,streamed,together}
    cli-{retention,download,kill_load,lost_database}
    conform-schemathesis
)
[ -f "$build/build.ninja" ] ||
    meson setup "$build" -Dbuildtype=debugoptimized -Db_sanitize="$sanitize" -Db_lundef=false
ninja -C "$build" daemon/malmend tests/http/malmend-fake

# The daemon leaves by _exit() where a client does not read: its threads are not joined then.
export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 report_thread_leaks=0"
export ASAN_OPTIONS="detect_stack_use_after_return=1 strict_string_checks=1 check_initialization_order=1"
export UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1"
export MALMEND_PATIENCE=120
exec meson test -C "$build" --no-rebuild --print-errorlogs --num-processes 2 --timeout-multiplier 5 "${tests[@]}"
