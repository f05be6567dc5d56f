# SPDX-License-Identifier: Apache-2.0
"""Entropy device (virtio-rng) for vmm. `plugin` is the front's half, `device` the runner's."""
