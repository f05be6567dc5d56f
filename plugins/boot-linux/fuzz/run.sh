#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the kernel image parsers for SECONDS (60); see fuzz/plugin.sh at the top of the tree.
set -eu

plugin=$(cd "$(dirname "$0")/.." && pwd)
exec sh "$plugin/../../fuzz/plugin.sh" "${1:-60}" 4096 "$plugin" \
    "$plugin/native/fuzz_image.c" "$plugin/native/image.c" "$plugin/native/bzimage.c" "$plugin/native/elf.c" \
    "$plugin/native/arm64.c"
