# SPDX-License-Identifier: Apache-2.0
"""A virtio device that gives back what it gets: `plugin` is the front's half, `device` the half beside the guest."""
