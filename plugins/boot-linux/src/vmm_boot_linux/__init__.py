# SPDX-License-Identifier: Apache-2.0
"""Boots Linux: bzImage, ELF vmlinux, arm64 Image, with an initramfs."""
