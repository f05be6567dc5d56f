# SPDX-License-Identifier: Apache-2.0
"""virtio-net for vmm. `plugin` is the front's half, `device` the runner's; `tap` opens TAPs for both."""
