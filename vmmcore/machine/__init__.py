# SPDX-License-Identifier: Apache-2.0
"""The half that runs beside the guest. What is imported here every VM pays for."""
