#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Make .venv with the core and every plugin, editable, and the tools that `make` calls.
set -eu
cd "$(dirname "$0")/.."
tools/apt.sh run

[ -x .venv/bin/python ] || ${PYTHON:-python3} -m venv .venv
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip -q
command -v .venv/bin/uv >/dev/null || .venv/bin/python -m pip install -q --disable-pip-version-check uv

# uv is fast; pip is asked where uv cannot reach the package index that pip is set up for.
install() {
  .venv/bin/uv pip install -q --python .venv/bin/python "$@" ||
    .venv/bin/python -m pip install -q --disable-pip-version-check "$@"
}

plugins=()
for plugin in plugins/*/pyproject.toml; do plugins+=(-e "$(dirname "$plugin")"); done
echo "vmm: building the core and its plugins into .venv"
install 'setuptools>=77' cffi hatchling editables tox tox-uv
install --no-build-isolation -e . # first: plugins with C code compile against its header
install --no-build-isolation "${plugins[@]}"
.venv/bin/python -m compileall -q vmmcore plugins/*/src .venv/lib/python3*/site-packages/{click,pluggy} || true
touch .venv/.ready
