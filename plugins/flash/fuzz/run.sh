#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the flash's commands for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 4096 "$plugin" "$plugin/fuzz/fuzz_nor.c" "$plugin/native/nor.c"
