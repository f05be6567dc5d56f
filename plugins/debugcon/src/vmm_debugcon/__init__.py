# SPDX-License-Identifier: Apache-2.0
"""Debug console, boot-time stamps and debug exit for vmm: `plugin` is the front's half, `device` the runner's."""
