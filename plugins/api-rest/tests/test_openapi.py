# SPDX-License-Identifier: Apache-2.0
"""The document, and what schemathesis finds when it believes it."""

from __future__ import annotations

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def test_it_is_a_valid_document(idle: Served) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs openapi-spec-validator: pip install it")
    document = idle.call("GET", "openapi.json")
    assert document["openapi"].startswith("3.1.")
    validator.validate(document)


def test_every_path_is_there(idle: Served) -> None:
    paths = idle.call("GET", "openapi.json")["paths"]
    assert {f"/{name}" for name in ANCHOR} <= paths.keys()
    for name in ("vmm.ping", "vm.info", "vm.counters"):
        assert set(paths[f"/{name}"]) == {"get"}
    assert set(paths["/vm.create"]) == {"put"}


#: fields of those of its schemas that are served (the same document)
FIELDS = {
    "BalloonConfig": "deflate_on_oom free_page_reporting id iommu pci_device_id pci_segment size",
    "ConsoleConfig": "file id iommu mode pci_device_id pci_segment socket",
    "CpusConfig": "affinity boot_vcpus core_scheduling features kvm_hyperv max_phys_bits max_vcpus nested topology",
    "DebugConsoleConfig": "file iobase mode",
    "DeviceNode": "children id pci_bdf resources",
    "DiskConfig":
        "backing_files direct id image_type iommu lock_granularity num_queues path pci_device_id pci_segment "
        "queue_affinity queue_size rate_limit_group rate_limiter_config readonly serial sparse vhost_socket "
        "vhost_user",
    "MemoryConfig":
        "hotplug_method hotplug_size hotplugged_size hugepage_size hugepages mergeable prefault reserve shared size "
        "thp zones",
    "MemoryZoneConfig":
        "file host_numa_node hotplug_size hotplugged_size hugepage_size hugepages id mergeable prefault reserve "
        "shared size",
    "NetConfig":
        "host_mac id iommu ip mac mask mtu num_queues offload_csum offload_tso offload_ufo pci_device_id pci_segment "
        "queue_size rate_limiter_config tap vhost_mode vhost_socket vhost_user",
    "NumaConfig": "cpus device_id distances guest_numa_id memory_zones pci_segments",
    "PayloadConfig": "cmdline firmware host_data igvm initramfs kernel",
    "PciDeviceInfo": "bdf id",
    "PciSegmentConfig": "mmio32_aperture_weight mmio64_aperture_weight pci_segment",
    "PlatformConfig":
        "chassis_asset_tag iommu_address_width_bits iommu_segments iommufd num_pci_segments oem_strings serial_number "
        "sev_snp system_family system_manufacturer system_product_name system_serial_number system_sku_number "
        "system_uuid system_version tdx uuid vfio_p2p_dma",
    "ReceiveMigrationData": "memory_mode receiver_url tls_dir zone_updates",
    "RestoreConfig": "memory_restore_mode prefault resume source_url zone_updates",
    "RngConfig": "id iommu pci_device_id pci_segment src",
    "SendMigrationData":
        "connections destination_url downtime_ms local memory_mode timeout_s timeout_strategy tls_dir",
    "SerialConfig": "file mode socket",
    "VmConfig":
        "balloon console cpus debug_console devices disks fs generic_vhost_user iommu landlock_enable landlock_rules "
        "memory net numa payload pci_segments platform pmem pvpanic rate_limit_groups rng rtc serial tpm user_devices "
        "vdpa vsock watchdog",
    "VmCoredumpData": "destination_url",
    "VmInfo": "config device_tree memory_actual_size state",
    "VmRemoveDevice": "id",
    "VmResize": "desired_balloon desired_ram desired_vcpus",
    "VmResizeDisk": "desired_size id",
    "VmResizeZone": "desired_ram id",
    "VmSnapshotConfig": "destination_url",
    "VmmPingResponse": "build_version features pid version",
}


def test_every_field_is_there(idle: Served) -> None:
    schemas = idle.call("GET", "openapi.json")["components"]["schemas"]
    for name, fields in FIELDS.items():
        assert set(fields.split()) <= schemas[name]["properties"].keys(), name


def test_every_device_type_is_there(idle: Served) -> None:
    from vmm_api_rest.catalog import Catalog

    document = idle.call("GET", "openapi.json")
    kinds = Catalog((), True).kinds()
    assert len(kinds) > 5
    for kind in kinds:
        body = document["paths"][f"/vm.add-device-type/{kind.key}"]["put"]["requestBody"]
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][name]["type"] == "object"


@pytest.mark.needs_kvm
@pytest.mark.timeout(900)
def test_schemathesis(api: Served, forever: Path, image: Path, request: pytest.FixtureRequest) -> None:
    """Chains of requests made from the document, good and bad ones: nothing breaks, every answer is as documented.

    Ten seconds; five minutes with --soak. What creates a VM or a disk names real files half of the time, so that
    the VM is in all of its states. 501 is an answer that is meant; all other 5xx are failures.
    """
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install vmm-api-rest[test]")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.specs.openapi import checks as conformance

    document = api.call("GET", "openapi.json")
    for path in ("/events", "/vmm.shutdown"):  # one does not end, the other ends it all
        del document["paths"][path]
    seen: dict[str, set[int]] = {}
    turn, states = itertools.count(), itertools.cycle(range(4))
    config = {"payload": {"kernel": str(forever)}, "memory": {"size": 32 * MIB}, "console": {"mode": "Off"},
              "disks": [{"path": str(image), "id": "disk0", "readonly": True}]}  # fmt: skip
    quick = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))

    def no_failure(context: Any, response: Any, case: Any) -> None:
        seen.setdefault(case.operation.path, set()).add(response.status_code)
        assert response.status_code < 500 or response.status_code == 501, (case.body, response.content)

    checks = [no_failure, conformance.status_code_conformance, conformance.content_type_conformance,
              conformance.response_schema_conformance]  # fmt: skip
    with forwarded(api.path) as port:
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=f"http://127.0.0.1:{port}/api/v1")

        def real(case: Any) -> None:
            """Every other time, files that exist."""
            body = case.body
            if not next(turn) % 2 or not isinstance(body, dict):
                return
            if case.operation.path == "/vm.create":
                case.body = config
            elif case.operation.path == "/vm.add-disk":
                case.body = {key: body[key] for key in ("id", "serial") if key in body}
                case.body |= {"path": str(image), "readonly": True}

        def another_state() -> None:
            """No VM, one that is created, one that runs, one that is paused: in turn."""
            api.put("vm.delete")
            for call, body in (("vm.create", config), ("vm.boot", None), ("vm.pause", None))[: next(states)]:
                api.call("PUT", call, body)

        class Workflow(schema.as_state_machine()):  # type: ignore[misc]
            def setup(self) -> None:
                another_state()

            def before_call(self, case: Any) -> None:
                real(case)

            def validate_response(self, response: Any, case: Any, *_: Any, **__: Any) -> None:
                case.validate_response(response, checks=checks)

        def single(mode: Any) -> None:
            """Requests that belong to no chain, to every call."""
            for found in schema.get_all_operations():
                another_state()

                @settings(quick, max_examples=2)
                @given(case=found.ok().as_strategy(generation_mode=mode))
                def one(case: Any) -> None:
                    real(case)
                    case.validate_response(case.call(), checks=checks)

                with suppress(Unsatisfiable):  # nothing in it can be wrong
                    one()

        limit = time.monotonic() + (300.0 if request.config.getoption("--soak") else 10.0)
        while time.monotonic() < limit:
            for mode in schemathesis.GenerationMode:
                Workflow.run(settings=settings(quick, max_examples=3, stateful_step_count=20))
                single(mode)
                assert api.process.poll() is None, api.end()
    assert {200, 204, 400, 404, 405, 409, 501} <= {status for found in seen.values() for status in found}, seen
    assert seen.keys() == document["paths"].keys()
    reached = [path for path in ("/vm.boot", "/vm.pause", "/vm.shutdown", "/vm.reboot") if 204 in seen[path]]
    assert reached, seen


@contextmanager
def forwarded(path: str) -> Iterator[int]:
    """A TCP port of this machine that leads to a Unix socket, for clients that know no other."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(path)
                back = threading.Thread(target=pump, args=(there, self.request), daemon=True)
                back.start()
                pump(self.request, there)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Everything from one to the other, and the end of it."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
