#!/bin/sh
# Packs what gpu.sh needs into one archive, for a machine that has a GPU and CUDA but none of what malmend is
# built from, and no network.
#
#   gpu_pack.sh [--build DIR] [--arch 90] [OUT.tar.xz]
#
# DIR (build/gpu) is made where it is not there, for the architectures of --arch, and brought up to date.
#
#   tar -xf OUT.tar.xz && malmend-gpu/gpu.sh
#
# Left out are libraries that every machine has, and CUDA's.
set -eu

here=$(dirname "$(readlink -f "$0")")
root=$(dirname "$(dirname "$here")")
build=$root/build/gpu
arch=90
limit=$((55 * 1024 * 1024))

while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$2 && shift 2 ;;
    --arch) arch=$2 && shift 2 ;;
    -*) sed -n '2,12p' "$0" >&2 && exit 2 ;;
    *) break ;;
    esac
done
out=${1:-$build/malmend-gpu.tar.xz}

if [ ! -f "$build/build.ninja" ]; then
    meson setup "$build" "$root" -Dcuda=enabled -Dgpu_arch="$arch" >&2
fi
describe=$(python3 "$here/gpu.py" --describe)
tests=$(echo "$describe" | python3 -c \
    'import json, sys; print(*(name for names in json.load(sys.stdin)["tests"].values() for name in names))')

ninja -C "$build" build.ninja >&2 # what is there by now
programs=$(ninja -C "$build" -t targets all | sed -n 's/: .*LINKER.*//p')
wanted=
for name in $tests bench_gpu bench_gpu_edit malmend; do
    program=$(echo "$programs" | grep "/$name\$") || { echo "$name is not built" >&2 && continue; }
    wanted="$wanted $program"
done
# shellcheck disable=SC2086
ninja -C "$build" $wanted >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack=$work/malmend-gpu
mkdir -p "$pack/bin" "$pack/lib" "$pack/tests/bench" "$pack/tests/cli" "$pack/tests/golden"
echo "$describe" >"$pack/pack.json"
for program in $wanted; do
    strip -o "$pack/bin/$(basename "$program")" "$build/$program"
done
cp "$here/gpu.sh" "$here/gpu.py" "$here/gpu_large.py" "$here/gpu_serve.py" "$here/torch_ops.py" "$pack/tests/bench/"
cp "$root/tests/cli/sparse.py" "$pack/tests/cli/"
ln -s tests/bench/gpu.sh "$pack/gpu.sh"
cp -a "$root/tests/golden/cases" "$root/tests/golden/tokenizer" "$pack/tests/golden/"
cp -a "$root/tests/demo" "$pack/tests/"

ldd "$pack"/bin/* | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
    grep -Ev '/lib(c|m|pthread|dl|rt|stdc\+\+|gcc_s|cuda|cudart|cublas|cublasLt|cusolver|cusparse|nvJitLink)\.so' |
    while read -r library; do
        cp -L "$library" "$pack/lib/"
    done
chmod u+w "$pack"/lib/*
strip "$pack"/lib/* 2>/dev/null || true

mkdir -p "$(dirname "$out")"
tar -C "$work" -cf - malmend-gpu | xz -T1 --lzma2=preset=1,dict=64MiB >"$out"
size=$(stat -c %s "$out")
echo "$out: $((size / 1024 / 1024)) MiB" >&2
[ "$size" -lt "$limit" ] || { echo "more than $((limit / 1024 / 1024)) MiB" >&2 && exit 1; }
