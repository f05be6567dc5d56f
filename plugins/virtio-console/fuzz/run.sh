#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the console's data plane for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 1024 "$plugin" \
    -I "$plugin/tests/native" -I "$plugin/../testkit/src/vmm_testkit/fakes" \
    "$plugin/native/fuzz_console.c" "$plugin/native/console.c" "$plugin/native/control.c" "$plugin/native/stream.c"
