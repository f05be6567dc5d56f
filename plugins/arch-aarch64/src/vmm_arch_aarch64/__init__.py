# SPDX-License-Identifier: Apache-2.0
"""vmm on AArch64: `plugin` (declarations), `front` (planning half), `machine` (runner half)."""
