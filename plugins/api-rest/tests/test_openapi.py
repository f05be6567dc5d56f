# SPDX-License-Identifier: Apache-2.0
"""The document, and what schemathesis finds when it believes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_served import MIB, Served

#: paths of Cloud Hypervisor's API v1 (its OpenAPI document, version 0.3.0)
ANCHOR = (
    "vmm.ping", "vmm.shutdown", "vm.info", "vm.counters", "vm.create", "vm.delete", "vm.boot", "vm.pause", "vm.resume",
    "vm.shutdown", "vm.reboot", "vm.power-button", "vm.resize", "vm.resize-disk", "vm.resize-zone", "vm.add-device",
    "vm.remove-device", "vm.add-disk", "vm.add-fs", "vm.add-generic-vhost-user", "vm.add-pmem", "vm.add-net",
    "vm.add-vsock", "vm.add-vdpa", "vm.add-user-device", "vm.snapshot", "vm.coredump", "vm.nmi", "vm.restore",
    "vm.receive-migration", "vm.send-migration",
)  # fmt: skip


def test_it_is_a_valid_document(api: Served) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs openapi-spec-validator: pip install it")
    document = api.call("GET", "openapi.json")
    assert document["openapi"].startswith("3.1.")
    validator.validate(document)


def test_every_path_is_there(api: Served) -> None:
    paths = api.call("GET", "openapi.json")["paths"]
    assert {f"/{name}" for name in ANCHOR} <= paths.keys()
    for name in ("vmm.ping", "vm.info", "vm.counters"):
        assert set(paths[f"/{name}"]) == {"get"}
    assert set(paths["/vm.create"]) == {"put"}


def test_every_device_type_is_there(api: Served) -> None:
    from vmm_api_rest.catalog import Catalog

    document = api.call("GET", "openapi.json")
    kinds = Catalog((), True).kinds()
    assert len(kinds) > 5
    for kind in kinds:
        body = document["paths"][f"/vm.add-device-type/{kind.key}"]["put"]["requestBody"]
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][name]["type"] == "object"


@pytest.mark.needs_kvm
@pytest.mark.timeout(900)
def test_schemathesis(
    serve: Callable[..., Served], forever: Path, image: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Requests made from the document, in any order and while the VM runs: nothing breaks, every answer is documented.

    Twenty seconds; five minutes with --soak. The VM is booted again whenever a request has ended it.
    """
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install vmm-api-rest[test]")
    hypothesis = pytest.importorskip("hypothesis")
    api = serve()
    document = api.call("GET", "openapi.json")
    for path in ("/events", "/vmm.shutdown"):  # one does not end, the other ends it all
        del document["paths"][path]
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    limit = time.monotonic() + (300.0 if request.config.getoption("--soak") else 20.0)
    seen: dict[str, set[int]] = {}
    rounds = 0

    def one(case: Any) -> None:
        status, content_type, answer = exchange(api, case)
        name = case.operation.path
        seen.setdefault(name, set()).add(status)
        documented = case.operation.definition.raw["responses"]
        assert str(status) in documented, (name, status, answer, case.body)
        assert status != 500, (name, answer, case.body)
        if status == 204:
            assert answer == b""
            return
        ((kind, media),) = documented[str(status)]["content"].items()
        assert content_type.startswith(kind)
        if kind == "application/json":
            import jsonschema

            value = __import__("json").loads(answer)
            root = {"components": document["components"], **media["schema"]}
            jsonschema.Draft202012Validator(root).validate(value)

    while time.monotonic() < limit or not rounds:
        rounds += 1
        for operation in operations:
            ensure_vm(api, forever, image)
            settings = hypothesis.settings(
                max_examples=5, deadline=None, database=None, derandomize=False,
                suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
            )  # fmt: skip
            hypothesis.given(case=operation.as_strategy())(settings(one))()
            assert api.process.poll() is None, api.end()
            if time.monotonic() > limit and rounds > 1:
                break
    assert {200, 204, 400} <= {status for found in seen.values() for status in found}
    assert seen.keys() == document["paths"].keys()


def ensure_vm(api: Served, kernel: Path, image: Path) -> None:
    """A VM that runs, with a disk: so that requests have something to work on."""
    status, info = api.request("GET", "vm.info")
    if status == 200 and info["config"]["payload"].get("kernel") != str(kernel):
        api.put("vm.delete")
        status = 404
    if status == 404:
        api.create(kernel, memory={"size": 32 * MIB}, disks=[{"path": str(image), "id": "disk0"}])
        info = api.info()
    if info["state"] == "Created" and api.put("vm.boot") != 204:
        api.put("vm.delete")
        api.create(kernel, memory={"size": 32 * MIB})
        assert api.put("vm.boot") == 204


def exchange(api: Served, case: Any) -> tuple[int, str, bytes]:
    """Send a case; its status, content type and body."""
    import json

    method = case.operation.method.upper()
    body = b"" if case.operation.body is None or not case.operation.body.items else json.dumps(case.body).encode()
    status, answer = api.exchange(method, f"/api/v1{case.operation.path}", body)
    kind = "text/plain" if case.operation.path == "/metrics" else "application/json"
    return status, kind, answer
