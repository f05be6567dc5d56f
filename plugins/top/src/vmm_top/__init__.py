# SPDX-License-Identifier: Apache-2.0
"""``vmm top``: `client` asks a VM's API, `rates` compares two answers, `screen` shows that, `cli` is the command."""
