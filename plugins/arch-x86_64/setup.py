# SPDX-License-Identifier: Apache-2.0
"""The C half is x86-64's own (CPUID, MSRs): elsewhere the package is installed without it, imports, and is inert."""

from sysconfig import get_platform

from setuptools import Distribution, setup


class ForThisMachine(Distribution):
    """A wheel without the C half is no wheel for x86-64."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cffi_modules=["build_native.py:ffi"] if get_platform().endswith("x86_64") else [],
    distclass=ForThisMachine,
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
