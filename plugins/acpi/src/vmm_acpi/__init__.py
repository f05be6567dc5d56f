# SPDX-License-Identifier: Apache-2.0
"""ACPI tables and AML for virtual machines: functions that return bytes.

Nothing is imported here, so that a caller pays only for the modules it names:
`aml`, `resources`, `tables`, `madt`, `numa`, `arm`, `machine` and `loader`.
"""
