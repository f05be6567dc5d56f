#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes block requests for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 2048 "$plugin" \
    "$plugin/native/fuzz_blk.c" "$plugin/native/request.c"
