# SPDX-License-Identifier: Apache-2.0
"""The event stream for vmm: `plugin` declares the flag, `monitor` writes. Nothing of it is in the runner."""
