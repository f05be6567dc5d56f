# SPDX-License-Identifier: Apache-2.0
"""REST API for vmm. `plugin` is what the core imports; `server` speaks HTTP, `calls` lists the API, `host` does it."""
