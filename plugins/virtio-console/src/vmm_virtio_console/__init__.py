# SPDX-License-Identifier: Apache-2.0
"""Console device (virtio-console) for vmm. `plugin` is the front's half, `device` the runner's."""
