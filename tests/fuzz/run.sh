#!/bin/bash
# Fuzzes every target, or those named, for so many seconds each: tests/fuzz/run.sh SECONDS [TARGET...]
# Builds them with clang in build/fuzz. What was found is kept in build/fuzz/found/TARGET, and what is
# new in the corpus in build/fuzz/corpus/TARGET; MINIMISE=1 brings what of it is needed into seeds.
# JOBS: how many at a time (2). SEED: of what is tried; else another each time.
set -euo pipefail
cd "$(dirname "$0")/../.."

[[ ${1:-} =~ ^[0-9]+$ ]] || { echo "usage: $0 SECONDS [TARGET...]" >&2; exit 2; }
seconds=$1
shift
targets=("$@")
[ $# -gt 0 ] || targets=(history http model options safetensors tokenizer wire)
clang=$(command -v clang-14 || command -v clang) || { echo "no clang: nothing is fuzzed" >&2; exit 77; }

build=build/fuzz
[ -f $build/build.ninja ] ||
    CC=$clang meson setup $build -Dfuzz=true -Dcuda=disabled -Dbuildtype=debugoptimized -Db_lundef=false
ninja -C $build "${targets[@]/#/tests/fuzz/fuzz_}"

# One thread: the others would only wait.
export OMP_NUM_THREADS=1 ASAN_OPTIONS="${ASAN_OPTIONS:-}" UBSAN_OPTIONS=print_stacktrace=1

fuzz() {
    local target=$1 seeds=tests/fuzz/seeds/$1 corpus=$build/corpus/$1 found=$build/found/$1
    mkdir -p "$corpus" "$found"
    local log=$found/log code=0
    "$build/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -dict="tests/fuzz/$target.dict" \
        -artifact_prefix="$found/" -max_len=4096 -timeout=25 -rss_limit_mb=4096 -close_fd_mask=3 \
        -print_final_stats=1 -seed="${SEED:-0}" "$corpus" "$seeds" >"$log" 2>&1 || code=$?
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: //p' "$log" | tail -1) executions," \
        "$(find "$found" -type f ! -name log | wc -l) findings"
    [ $code = 0 ] || { tail -40 "$log"; return 1; }
    [ -z "${MINIMISE:-}" ] ||
        "$build/tests/fuzz/fuzz_$target" -merge=1 -max_len=1024 -close_fd_mask=3 "$seeds" "$corpus" 2>/dev/null
}

code=0
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n || code=1; done
    fuzz "$target" &
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || code=1; done
exit $code
