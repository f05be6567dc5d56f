#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What plugins' fuzz/run.sh share: plugin.sh SECONDS MAX-LEN PLUGIN CLANG-ARGUMENTS…
# Builds a libFuzzer target of the sources in CLANG-ARGUMENTS and runs it under ASan and UBSan for SECONDS, on inputs of
# up to MAX-LEN bytes, beginning with those that PLUGIN/fuzz/seeds.py writes; fails when it does.
# Needs clang with libFuzzer (Debian: clang-14 libfuzzer-14-dev libclang-rt-14-dev), or CLANG=….
# An input that fails is left in the current directory (crash-…).
set -eu

seconds=$1 max_len=$2 plugin=$3
shift 3
include=$(cd "$(dirname "$0")/.." && pwd)/vmmcore/include
clang=${CLANG:-$(command -v clang-14 || command -v clang || true)}
if [ -z "$clang" ]; then
    echo "fuzz: no clang; apt-get install clang-14 libfuzzer-14-dev libclang-rt-14-dev" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/seeds" "$work/corpus"
${PYTHON:-python3} "$plugin/fuzz/seeds.py" "$work/seeds"
"$clang" -std=gnu11 -g -O1 -pthread -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer -I "$plugin/native" -I "$include" -o "$work/target" "$@"
"$work/target" -max_total_time="$seconds" -max_len="$max_len" -timeout=10 -print_final_stats=1 -verbosity=0 \
    -close_fd_mask=0 "$work/corpus" "$work/seeds"
