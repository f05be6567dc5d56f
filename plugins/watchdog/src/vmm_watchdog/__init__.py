# SPDX-License-Identifier: Apache-2.0
"""Watchdogs for vmm. `plugin` is the front's half, `device` the runner's."""
