#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target for SECONDS (60) under ASan and UBSan: the core's here, then those of the plugins
# (plugins/*/fuzz/run.sh SECONDS). Ends with another status than 0 on any finding; the input is then shown in
# base64 (`base64 -d > FILE`, and `fuzz/run.sh --replay TARGET FILE` runs it again). Leaves no files.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
clang=${CLANG:-$(command -v clang || command -v clang-14 || true)}
if [ -z "$clang" ]; then
    echo "fuzz: no clang; apt-get install clang libclang-rt-dev (or clang-14 libfuzzer-14-dev libclang-rt-14-dev)" >&2
    exit 1
fi
export CLANG="$clang"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

build() {
    core=$(find "$root/native" -name '*.c' ! -name 'test_*' ! -name 'fuzz_*' | sort)
    # shellcheck disable=SC2086
    "$clang" -std=gnu11 -g -O1 -pthread -Wall -Wextra -Werror -fno-omit-frame-pointer \
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wl,--wrap=ioctl \
        -I "$root/native" -I "$root/vmmcore/include" -I "$root/tests/native" -I "$here" -o "$work/$1" \
        "$here/$1.c" "$here/frame.c" "$root/tests/native/fake_kvm.c" "$root/tests/native/guest.c" $core
}

if [ "${1:-}" = --replay ]; then
    build "$2"
    "$work/$2" "$3"
    exit
fi

seconds=${1:-60}
status=0
${PYTHON:-python3} "$here/seeds.py" "$work/seeds"
for target in fuzz_bus fuzz_pci fuzz_queue fuzz_virtio; do
    if ! build "$target" 2>"$work/log"; then
        cat "$work/log" >&2
        if grep -q 'libclang_rt.fuzzer' "$work/log"; then
            echo "fuzz: no libFuzzer; apt-get install libclang-rt-dev (or libfuzzer-14-dev libclang-rt-14-dev)" >&2
        fi
        exit 1
    fi
    mkdir "$work/corpus"
    # not -fork: one process, so that a finding is at the end of one log
    if "$work/$target" -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$work/found-" "$work/corpus" "$work/seeds/$target" >"$work/log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
        speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$work/log")
        echo "fuzz: $target: clean, $runs runs, $speed execs/s, corpus $(find "$work/corpus" -type f | wc -l)"
    else
        grep -v 'REDUCE\|NEW \|pulse' "$work/log" | tail -n 60 >&2
        for file in "$work"/found-*; do
            [ -f "$file" ] || continue
            echo "fuzz: $target: input $(basename "$file" | cut -d- -f2-) in base64:" >&2
            base64 "$file" >&2
        done
        rm -f "$work"/found-*
        echo "fuzz: $target: FAILED"
        status=1
    fi
    rm -rf "$work/corpus"
done

for script in "$root"/plugins/*/fuzz/run.sh; do
    [ -f "$script" ] || continue
    name=$(basename "$(dirname "$(dirname "$script")")")
    mkdir -p "$work/plugin"
    if (cd "$work/plugin" && sh "$script" "$seconds") >"$work/log" 2>&1; then
        echo "fuzz: $name: clean, $(sed -n 's/^stat::average_exec_per_sec: *//p' "$work/log" | paste -sd' ') execs/s"
    else
        grep -v 'REDUCE\|NEW \|pulse' "$work/log" | tail -n 60 >&2
        for file in "$work"/plugin/crash-* "$work"/plugin/timeout-* "$work"/plugin/oom-* "$work"/plugin/leak-*; do
            [ -f "$file" ] || continue
            echo "fuzz: $name: input $(basename "$file") in base64:" >&2
            base64 "$file" >&2
        done
        echo "fuzz: $name: FAILED"
        status=1
    fi
    rm -rf "$work/plugin"
done
exit $status
