# SPDX-License-Identifier: Apache-2.0
"""Memory that comes and goes while the guest runs (virtio-mem) for vmm. `plugin` is the front's half, `device` the
runner's."""
