# SPDX-License-Identifier: Apache-2.0
"""Builds the native core with its C tests twice, for ASan+UBSan and for TSan, and runs each ``TEST(…)``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SANITIZERS = {"asan": "address,undefined", "tsan": "thread"}
FLAGS = ["-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
TEST = re.compile(r"^TEST\((\w+)\)", re.MULTILINE)


def core_sources() -> list[Path]:
    return [p for p in sorted((ROOT / "native").glob("*.c")) if not p.name.startswith(("fuzz_", "test_"))]


def names() -> list[str]:
    return [name for path in sorted(HERE.glob("test_*.c")) for name in TEST.findall(path.read_text())]


def compile_all(sanitizer: str, out: Path) -> Path:
    gcc = shutil.which(os.environ.get("CC", "gcc"))
    if gcc is None:
        pytest.skip("no C compiler (Debian: apt-get install gcc libc6-dev)")
    flags = [*FLAGS, *WARNINGS, f"-fsanitize={SANITIZERS[sanitizer]}"]
    flags += [f"-I{ROOT / 'native'}", f"-I{ROOT / 'vmmcore/include'}", f"-I{HERE}"]

    def compile_one(source: Path) -> str:
        # the core and the tests may have files of the same name
        obj = out / f"{source.parent.name}-{source.stem}-{'t' if source.is_relative_to(HERE) else 'c'}.o"
        done = subprocess.run([gcc, *flags, "-c", source, "-o", obj], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return str(obj)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*core_sources(), *sorted(HERE.glob("*.c"))]))
    binary = out / f"native-{sanitizer}"
    link = [gcc, *flags, "-Wl,--wrap=ioctl,--wrap=epoll_wait", "-o", str(binary), *objects]
    done = subprocess.run(link, capture_output=True, text=True)
    if done.returncode and "cannot find" in done.stderr:
        pytest.skip(f"gcc lacks the sanitizer library: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return binary


@pytest.fixture(scope="session")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | BaseException]:
    return {}


def binary_for(
    sanitizer: str, built: dict[str, Path | BaseException], factory: pytest.TempPathFactory
) -> Path:
    """Builds once; a failed build fails every test of that kind without building again."""
    if sanitizer not in built:
        try:
            built[sanitizer] = compile_all(sanitizer, factory.mktemp(sanitizer))
        except (AssertionError, pytest.skip.Exception) as error:
            built[sanitizer] = error
    result = built[sanitizer]
    if isinstance(result, BaseException):
        raise result
    return result


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_native(
    sanitizer: str,
    name: str,
    binaries: dict[str, Path | BaseException],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    binary = binary_for(sanitizer, binaries, tmp_path_factory)
    # TSan's shadow does not fit every randomised layout
    prefix = ["setarch", "-R"] if sanitizer == "tsan" and shutil.which("setarch") else []
    try:
        done = subprocess.run(
            [*prefix, binary, name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=100,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env={**os.environ, **OPTIONS},
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{name} hangs; its output:\n{(error.stderr or b'').decode(errors='replace')}")
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"


def test_every_file_has_tests() -> None:
    for path in sorted(HERE.glob("test_*.c")):
        assert TEST.search(path.read_text()), f"{path.name} has no TEST(…)"
    listed = names()
    assert len(listed) == len(set(listed)), "two tests of one name"
