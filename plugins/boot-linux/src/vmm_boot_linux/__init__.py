# SPDX-License-Identifier: Apache-2.0
"""Boots Linux: bzImage and ELF vmlinux, with an initramfs."""
