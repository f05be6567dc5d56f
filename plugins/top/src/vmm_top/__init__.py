# SPDX-License-Identifier: Apache-2.0
"""``vmm top``: `cli` is the command and asks a VM's API, `rates` compares two answers, `screen` shows that."""
