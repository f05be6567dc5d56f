# SPDX-License-Identifier: Apache-2.0
"""``vmm plugins new``: a complete plugin package around a small virtio device, ready to be changed.

In the texts ``@NAME@`` is the plugin's name, ``@MODULE@`` its import package, ``@CLASS@`` its device class
and ``@KEY@`` its device type. What is in a package with C code, and what in one without, is in template_files.py.
"""

from __future__ import annotations

import keyword
import os

from ..errors import UserError


def write_plugin(name: str, folder: str | None = None, native: bool = False) -> str:
    """Write the package ``vmm-NAME``, with `native` around a data plane in C; its folder's path.

    Raises UserError, OSError.
    """
    from .template_files import COMMON, NATIVE, PYTHON

    words = name.split("-")
    if (
        not all(word.isascii() and word.isalnum() and word == word.lower() for word in words)
        or name[:1].isdigit()
    ):
        raise UserError(
            "NAME", f"'{name}' cannot be a plugin's name", "use small letters, digits and single '-'"
        )
    module = "vmm_" + name.replace("-", "_")
    key = name.replace("-", "_")
    if keyword.iskeyword(module) or name.startswith("vmm-"):
        raise UserError("NAME", f"'{name}': the package will be called vmm-{name}", "leave vmm- out")
    path = os.path.abspath(folder or f"vmm-{name}")
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError("--dir", f"{path} exists and is not empty", "name another folder")
    values = {
        "@NAME@": name,
        "@MODULE@": module,
        "@CLASS@": "".join(word.capitalize() for word in words),
        "@KEY@": key,
    }
    for file, text in (COMMON | (NATIVE if native else PYTHON)).items():
        for mark, value in values.items():
            file, text = file.replace(mark, value), text.replace(mark, value)
        target = os.path.join(path, file)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as out:
            out.write(text)
    return path
