# SPDX-License-Identifier: Apache-2.0
"""Test kit for vmm: bare-metal guests, stock Debian guests, and the lab.

One concept per module, and nothing is imported before it is asked for::

    kernels    Debian kernels, fetched with apt and cached
    initramfs  initial RAM file systems made on the fly (cpio: the archive format)
    guest      a Debian guest whose serial console answers commands
    baremetal  guests of a few KiB, compiled from C, for one fact each
    lab        an emulated host with a complete KVM, for machines that have none
    pytest_plugin, cli   the same for pytest and for the shell
"""
