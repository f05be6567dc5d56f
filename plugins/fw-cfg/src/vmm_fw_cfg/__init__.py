# SPDX-License-Identifier: Apache-2.0
"""Firmware configuration device. `plugin` is the front's half, `device` the runner's."""
