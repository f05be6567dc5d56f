# SPDX-License-Identifier: Apache-2.0
"""The front: the process that knows plugins, options and people. It compiles plans and drives runners."""
