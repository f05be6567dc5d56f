#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the console's data plane for SECONDS (60) under ASan and UBSan; fails when they do.
# Needs clang with libFuzzer (Debian: clang-14 libfuzzer-14-dev libclang-rt-14-dev), or CLANG=….
# An input that fails is left in the current directory (crash-…).
set -eu

seconds=${1:-60}
here=$(cd "$(dirname "$0")" && pwd)
native=$here/../native
include=$(cd "$here/../../.." && pwd)/vmmcore/include
clang=${CLANG:-$(command -v clang-14 || command -v clang || true)}
if [ -z "$clang" ]; then
    echo "fuzz: no clang; apt-get install clang-14 libfuzzer-14-dev libclang-rt-14-dev" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/seeds" "$work/corpus"
${PYTHON:-python3} "$here/seeds.py" "$work/seeds"
"$clang" -std=gnu11 -g -O1 -pthread -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer -I "$native" -I "$include" -I "$here/../tests/native" \
    -I "$here/../../testkit/src/vmm_testkit/fakes" \
    -o "$work/fuzz_console" "$native/fuzz_console.c" "$native/console.c" "$native/control.c" "$native/stream.c"
"$work/fuzz_console" -max_total_time="$seconds" -max_len=1024 -timeout=10 -print_final_stats=1 -verbosity=0 \
    -close_fd_mask=0 "$work/corpus" "$work/seeds"
