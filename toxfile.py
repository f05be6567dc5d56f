# SPDX-License-Identifier: Apache-2.0
"""tox: one environment for each plugin and each example, without a line in tox.ini for any of them."""

from __future__ import annotations

import sys
from pathlib import Path

from tox.config.loader.memory import MemoryLoader
from tox.config.sets import ConfigSet
from tox.plugin import impl
from tox.session.state import State

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from envs import examples, plugins


@impl
def tox_extend_envs() -> list[str]:
    return [f"plugin-{name}" for name in plugins()] + [f"example-{name}" for name in examples()]


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    folders = {f"plugin-{name}": f"plugins/{name}" for name in plugins()}
    folders |= {f"example-{name}": f"examples/{name}" for name in examples()}
    for env, folder in folders.items():
        name = Path(folder).name
        extra = "[test]" if "test = [" in Path(f"{folder}/pyproject.toml").read_text() else ""
        state.conf.memory_seed_loaders[env].append(
            MemoryLoader(
                description=f"the suite of {folder}, with what its own pyproject.toml declares",
                deps=f"-c build/wheels/constraints.txt\nvmm-{name}{extra}\npytest>=8\npytest-timeout",
                skip_install=True,
                commands=[f"python -P -m pytest -q -ra -p no:cacheprovider -c {folder}/pyproject.toml {folder}/tests"],
            )
        )
