#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the chip for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 1024 "$plugin" \
    "$plugin/native/fuzz_pl011.c" "$plugin/native/pl011_chip.c"
