# SPDX-License-Identifier: Apache-2.0
"""Memory balloon (virtio-balloon) for vmm. `plugin` is the front's half, `device` the runner's."""
