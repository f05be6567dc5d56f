# SPDX-License-Identifier: Apache-2.0
"""The files that ``vmm plugins new`` writes: path -> text, with the marks that template.py names."""

from __future__ import annotations

#: in every package
COMMON: dict[str, str] = {}
#: in one whose device is all Python
PYTHON: dict[str, str] = {}
#: in one with a data plane in C
NATIVE: dict[str, str] = {}

PYTHON["pyproject.toml"] = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "vmm-@NAME@"
version = "0.1.0"
description = "The virtio device @NAME@ for vmm"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["vmmcore>=0.1,<1"]

[project.optional-dependencies]
test = ["pytest>=8", "vmm-testkit>=0.1,<1", "vmm-arch-x86_64>=0.1,<1", "vmm-boot-linux>=0.1,<1", "vmm-serial>=0.1,<1"]

[project.entry-points.vmmcore]
@NAME@ = "@MODULE@.plugin"

# a flag of its own: vmm run --@KEY@ limit=100
[project.entry-points."vmmcore.flags"]
@KEY@ = "@MODULE@.plugin"

[tool.setuptools]
package-dir = { "" = "src" }
packages = ["@MODULE@"]
package-data = { "@MODULE@" = ["py.typed", "*.pyi"] }

[tool.pytest.ini_options]
testpaths = ["tests"]

[tool.ruff]
line-length = 110

[tool.mypy]
strict = true
mypy_path = "src"
"""

NATIVE["pyproject.toml"] = (
    PYTHON["pyproject.toml"]
    .replace('["setuptools>=77"]', '["setuptools>=77", "cffi>=2.0", "vmmcore>=0.1,<1"]')
    .replace('dependencies = ["vmmcore>=0.1,<1"]', 'dependencies = ["vmmcore>=0.1,<1", "cffi>=2.0"]')
)

_README = """\
# vmm-@NAME@

A virtio device for vmm: it answers each request with its first bytes, `limit=` of them at most.

    pip install -e '.[test]'
    pytest
    vmm plugins info @NAME@
    vmm run --kernel vmlinuz --@KEY@ limit=100

`src/@MODULE@/plugin.py` is the front's half: it says what the device is called and which options it takes.
`src/@MODULE@/device.py` is the half beside the guest@WHERE@.
`tests/test_driver.py` is a driver in Python, against the real core; `tests/test_guest.py` a guest of a few lines of C.
"""
PYTHON["README.md"] = _README.replace("@WHERE@", "")
NATIVE["README.md"] = _README.replace("@WHERE@", ": a handle on the data plane in `native/device.c`")

COMMON["tox.ini"] = """\
[tox]
env_list = py311, lint, types

[testenv]
extras = test
commands = pytest {posargs}

[testenv:lint]
skip_install = true
deps = ruff
commands = ruff check .

[testenv:types]
deps = mypy
commands = mypy src
"""

COMMON["src/@MODULE@/__init__.py"] = '''\
"""The device @NAME@ for vmm: `plugin` is the front's half, `device` the half beside the guest."""
'''

COMMON["src/@MODULE@/py.typed"] = ""

COMMON["src/@MODULE@/plugin.py"] = '''\
"""The front's half: what the device is called and which options it takes. Keep it light to import."""

from __future__ import annotations

from vmmcore.front.options import Option
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)  # the plugin API this was written for


class @CLASS@Options(VirtioOptions):
    """``--@KEY@ limit=100``, or ``--@KEY@ 100``."""

    positional = "limit"
    limit = Option(int, 4096, "most bytes of an answer", min=0, max=1 << 20)


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [DeviceType("@KEY@", "@MODULE@.device:@CLASS@", options=@CLASS@Options, doc="the device @NAME@")]
'''

PYTHON["src/@MODULE@/device.py"] = '''\
"""The half beside the guest: the device's queue, in Python."""

from __future__ import annotations

from typing import Any

from vmmcore.virtio import Queue, VirtioDevice


class @CLASS@(VirtioDevice):
    """It answers each request with its first bytes."""

    virtio_id = 63  # choose your own
    queue_sizes = (64,)
    requests = 0

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            chain.write(chain.read()[: self.options["limit"]])  # as much as the driver left room for
            self.requests += 1

    def save(self) -> dict[str, Any]:
        return {"requests": self.requests}

    def restore(self, state: dict[str, Any]) -> None:
        self.requests = state["requests"]

    def counters(self) -> dict[str, int]:
        return {"requests": self.requests}
'''

NATIVE["src/@MODULE@/device.py"] = '''\
"""The half beside the guest: a handle on the data plane in native/device.c."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib


class @CLASS@(VirtioDevice):
    """It answers each request with its first bytes."""

    virtio_id = 63  # choose your own
    queue_sizes = (64,)

    def configure(self) -> None:
        vm, api = (ffi.cast("void *", n) for n in (self.machine.vm_address, self.machine.api_address))
        self.c = lib.device_new(api, vm, self.id.encode(), self.options["limit"])
        if self.c == ffi.NULL:
            raise VmmError(f"{self.id}: out of memory, or built for another version of the core")

    def start(self) -> None:
        for queue in self.queues:
            if queue.active and lib.device_serve(self.c, ffi.cast("void *", queue.address)):
                raise VmmError(f"{self.id}: cannot serve queue {queue.index}")

    def remove(self) -> None:
        lib.device_free(self.c)
'''

NATIVE["src/@MODULE@/_native.pyi"] = """\
from typing import Any, Protocol

class _Lib(Protocol):
    def device_new(self, api: Any, vm: Any, id: bytes, limit: int, /) -> Any: ...
    def device_serve(self, device: Any, queue: Any, /) -> int: ...
    def device_free(self, device: Any, /) -> None: ...

ffi: Any
lib: _Lib
"""

NATIVE["setup.py"] = """\
from setuptools import setup

setup(cffi_modules=["native/build_ffi.py:ffibuilder"], options={"bdist_wheel": {"py_limited_api": "cp311"}})
"""

NATIVE["MANIFEST.in"] = """\
include native/*.py native/*.c native/*.h
recursive-include tests *.py
"""

NATIVE[".gitignore"] = """\
build/
*.egg-info/
*.so
*.o
src/@MODULE@/_native.c
__pycache__/
"""

NATIVE["native/build_ffi.py"] = '''\
"""Builds ``@MODULE@._native`` (run by setuptools through ``cffi_modules``)."""

from __future__ import annotations

from cffi import FFI
from vmmcore import get_include

ffibuilder = FFI()
ffibuilder.cdef("""
void *device_new(const void *api, void *vm, const char *id, uint32_t limit);
int device_serve(void *device, void *queue);
void device_free(void *device);
""")
ffibuilder.set_source(
    "@MODULE@._native",
    '#include "device.h"\\n',
    sources=["native/device.c"],
    depends=["native/device.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)
'''

NATIVE["native/device.h"] = """\
#ifndef DEVICE_H
#define DEVICE_H

#include <stdint.h>

/* NULL: out of memory, or the core is not one that this was compiled for. `id`: the device's, for its counters. */
void *device_new(const void *api, void *vm, const char *id, uint32_t limit);
/* Serve the queue on its loop from now on, until the core stops the device. 0, or -errno. */
int device_serve(void *device, void *queue);
/* The device is stopped. */
void device_free(void *device);

#endif
"""

NATIVE["native/device.c"] = """\
/* The data plane. Its requests are served on a loop's thread, without Python. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "vmmcore.h"

struct device {
  const struct vmm_api *api;
  uint64_t *requests; /* a counter of the VM; NULL without memory */
  uint32_t limit;
};

/* Copy up to `limit` bytes of what the driver wrote to where it wants the answer: two lists of pieces. */
static size_t copy(const struct iovec *from, size_t n_from, const struct iovec *to, size_t n_to, size_t limit) {
  size_t done = 0, skip_from = 0, skip_to = 0;
  while (n_from && n_to && done < limit) {
    size_t n = from->iov_len - skip_from;
    if (n > to->iov_len - skip_to) n = to->iov_len - skip_to;
    if (n > limit - done) n = limit - done;
    memmove((char *)to->iov_base + skip_to, (char *)from->iov_base + skip_from, n); /* they may overlap */
    done += n;
    skip_from += n;
    skip_to += n;
    if (skip_from == from->iov_len) from++, n_from--, skip_from = 0;
    if (skip_to == to->iov_len) to++, n_to--, skip_to = 0;
  }
  return done;
}

static int64_t serve(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct device *d = opaque;
  (void)queue;
  if (d->requests) __atomic_fetch_add(d->requests, 1, __ATOMIC_RELAXED);
  return (int64_t)copy(iov, chain->n_out, iov + chain->n_out, chain->n_in, d->limit);
}

void *device_new(const void *table, void *vm, const char *id, uint32_t limit) {
  const struct vmm_api *api = table;
  if (vmm_api_check(api, 4)) return NULL;
  struct device *d = calloc(1, sizeof *d);
  if (d) *d = (struct device){.api = api, .requests = api->counter(vm, id, "requests"), .limit = limit};
  return d;
}

int device_serve(void *device, void *queue) {
  struct device *d = device;
  return d->api->queue_serve(queue, serve, d);
}

void device_free(void *device) {
  free(device);
}
"""

COMMON["tests/test_plugin.py"] = '''\
"""The front's half: what `--@KEY@` accepts."""

from __future__ import annotations

import pytest
from vmmcore.errors import UserError

from @MODULE@.plugin import @CLASS@Options, vmm_device_types


@pytest.mark.parametrize(("text", "limit"), [("", 4096), ("5", 5), ("limit=0x10,packed=on", 16)])
def test_options(text: str, limit: int) -> None:
    assert @CLASS@Options.parse(text, "--@KEY@").limit == limit


@pytest.mark.parametrize("text", ["limit=-1", "limit=1048577", "limit=x", "limmit=1"])
def test_a_bad_option_is_named_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--@KEY@") as caught:
        @CLASS@Options.parse(text, "--@KEY@")
    assert "\\n" not in str(caught.value)


def test_device_type() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.factory) == ("@KEY@", "pci", "@MODULE@.device:@CLASS@")
'''

COMMON["tests/test_driver.py"] = '''\
"""The device against a driver in Python: the real core, no guest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

virtio = pytest.importorskip("vmm_testkit.virtio", reason="needs the testkit: pip install vmm-testkit")

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm (see `vmm check`)"
)


@pytest.fixture(params=["limit=10", "limit=10,packed=on"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    with virtio.VirtioDriver.flag("--@KEY@", request.param) as made:
        made.start()
        yield made


def test_answers(driver: Any) -> None:
    assert driver.request(0, out=[b"hello"], in_=[64]).data == b"hello"
    assert driver.request(0, out=[b"0123", b"456789ab"], in_=[3, 64]).data == b"0123456789"  # the limit
    assert driver.request(0, out=[b"hello"], in_=[2]).data == b"he"  # the room
    assert driver.request(0, out=[b"hello"]).length == 0


def test_many_at_once(driver: Any) -> None:
    for _ in range(10):  # round the ring
        tokens = [driver.submit(0, out=[b"%d" % n], in_=[8]) for n in range(20)]
        driver.kick(0)
        assert [driver.wait(0, token).data for token in tokens] == [b"%d" % n for n in range(20)]
    (name,) = driver.machine.devices
    assert driver.machine.counters()[name]["requests"] == 200


def test_reset_and_again(driver: Any) -> None:
    for _ in range(3):
        assert driver.request(0, out=[b"again"], in_=[8]).data == b"again"
        driver.reset()
        driver.start()
'''

COMMON["tests/test_guest.py"] = '''\
"""The device in a whole machine: a guest of a few lines of C drives its queue."""

from __future__ import annotations

import os

import pytest

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")

GUEST = """
#include "virtio.h"
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static char answer[16];

int main(struct hvm_start_info *si) {
  (void)si;
  struct virtio dev;
  struct virtq q;
  CHECK(virtio_find(&dev, 63), "no device, common configuration at %lx", dev.common);
  CHECK(virtio_negotiate(&dev, 0), "features refused, offered %lx", virtio_offered(&dev));
  CHECK(virtq_setup(&dev, &q, 0, 64, ring), "no queue, %d", 0);
  virtio_driver_ok(&dev);
  struct virtq_piece pieces[] = {{"hello, device", 13, 0}, {answer, 16, 1}};
  int length = virtq_request(&q, pieces, 2);
  CHECK(length == 5, "%d bytes", length);
  CHECK(!memcmp(answer, "hello", 6), "answer: %s", answer);
  return 0;
}
"""


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm (see `vmm check`)")
def test_an_answer_to_a_guest() -> None:
    baremetal.BareMetal(GUEST).run(["--@KEY@", "limit=5"]).check()
'''
