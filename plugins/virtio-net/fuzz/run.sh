#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the data plane for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 1024 "$plugin" \
    -I "$plugin/tests/native" "$plugin/tests/native/fake_core.c" \
    "$plugin/native/fuzz_net.c" "$plugin/native/net.c" "$plugin/native/rx.c" "$plugin/native/tx.c"
