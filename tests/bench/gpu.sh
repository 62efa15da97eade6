#!/bin/sh
# Everything that needs a GPU, without anybody looking on, in less than ten minutes: tests on the device, the
# products and single operations against PyTorch, whole edits at GPT-J 6B's size, the daemon with the demo model and
# at that size, compute-sanitizer.
#
#   gpu.sh [--build DIR] [--device cuda:0] [PART...]
#
# PART: parity ops torch edit serve large model sanitize (gpu.py says what each is); all without. From a folder that gpu_pack.sh
# made nothing is built; otherwise DIR (build/gpu) is brought up to date. One JSON file goes to $OUT, or to
# results/ beside this script. Exit code 0: all went well.
set -eu

here=$(dirname "$(readlink -f "$0")")
root=$(dirname "$(dirname "$here")")
build=

if [ "${1:-}" = --build ]; then
    build=$2
    shift 2
fi
if [ -f "$root/pack.json" ]; then
    exec python3 "$here/gpu.py" "$@"
fi
build=${build:-$root/build/gpu}
if [ ! -f "$build/build.ninja" ]; then
    meson setup "$build" "$root" -Dcuda=enabled >&2
fi
ninja -C "$build" >&2
exec python3 "$here/gpu.py" --build "$build" "$@"
