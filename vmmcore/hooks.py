# SPDX-License-Identifier: Apache-2.0
"""Every hook that a plugin may implement: the plugin author's contract, in one file.

A plugin is a module named by an entry point of group ``vmmcore``::

    [project.entry-points.vmmcore]
    foo = "vmm_foo.plugin"              # NAME = module; NAME is what --plugin takes

    [project.entry-points."vmmcore.flags"]
    foo = "vmm_foo.plugin"              # optional: `vmm run --foo …` without --plugin
    "foo@aarch64" = "vmm_foo.plugin"    # the same on one machine only, where it comes before foo

The module holds ``API = (1, 0)`` (the core API it was written for) and functions
marked with ``@hookimpl``. It is imported only in the *front* (the process that
talks to people), and only when the configuration needs it, so keep it light: it
*names* the device class that the *runner* (the process beside the guest) imports.

Other groups: ``vmmcore.arch`` (name: what ``uname -m`` prints), ``vmmcore.boot``
(every entry is asked about a kernel file), ``vmmcore.commands`` (name: a `vmm`
sub-command, value: ``module:click_command``), ``vmmcore.api`` (who serves ``vmm run
--api-socket``, value: ``module:function``, see :mod:`vmmcore.front.cli.served`).

The markers are pluggy's in effect (it looks for an attribute) without importing
it, so that a module that only declares stays cheap to import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol, TypeVar, overload

    from .front.options import Options
    from .front.planning import Layout, PlanContext

    F = TypeVar("F", bound=Callable[..., Any])
    #: what a property of a device tree's node is made of (:func:`vmm_fdt_nodes`); a dict is a node inside
    Property = str | int | bytes | Sequence[str] | Sequence[int] | dict[str, "Property"]

#: (major, minor) of the plugin API. A plugin of another major, or of a newer minor, is disabled.
API_VERSION = (1, 0)

PROJECT = "vmm"


if TYPE_CHECKING:

    class _Marker(Protocol):
        @overload
        def __call__(self, function: F, /) -> F: ...
        @overload
        def __call__(self, /, **options: bool | str) -> Callable[[F], F]: ...

    #: Mark a hook specification. Options: firstresult, historic (see pluggy).
    hookspec: _Marker
    #: Mark a hook implementation. Options: wrapper, optionalhook, tryfirst, trylast, specname (see pluggy).
    hookimpl: _Marker
else:

    def _marker(attribute, defaults):
        def marker(function=None, **options):
            def mark(f):
                setattr(f, attribute, {**defaults, **options})
                return f

            return mark if function is None else mark(function)

        return marker

    hookspec = _marker(PROJECT + "_spec", {"firstresult": False, "historic": False, "warn_on_impl": None,
                                           "warn_on_impl_args": None})
    hookimpl = _marker(PROJECT + "_impl", {"wrapper": False, "hookwrapper": False, "optionalhook": False,
                                           "tryfirst": False, "trylast": False, "specname": None})


class DeviceType:
    """A kind of device that a plugin provides.

    key      the configuration key and, if the plugin declares it in ``vmmcore.flags``,
             the command line flag: ``disk``, ``net``, ``foo``
    factory  ``module:Class``, a :class:`vmmcore.device.Device`; imported by the runner only
    options  an :class:`vmmcore.front.options.Options` subclass, or None for a device without options
    plan     called at planning time with (context, options, device): opens files, claims
             interrupts, writes what the device class needs into ``device["options"]``,
             ``device["resources"]`` and ``device["files"]``. It may return False:
             nothing to build (``--serial off``).
    bus      ``"pci"`` (the core gives it a slot), ``"platform"``, or ``"front"``: no device, but something of the
             front, like a stream of events; `factory` is "" then, and `plan` gets a
             :class:`vmmcore.front.context.FrontContext`, an empty dict, and its result counts for nothing
    many     whether more than one may be configured
    """

    __slots__ = ("bus", "doc", "factory", "key", "many", "options", "plan")

    def __init__(self, key: str, factory: str, *, options: type[Options] | None = None,
                 plan: Callable[[PlanContext, Any, dict[str, Any]], bool | None] | None = None,
                 bus: str = "pci", many: bool = True, doc: str = "") -> None:
        self.key, self.factory, self.options = key, factory, options
        self.plan, self.bus, self.many, self.doc = plan, bus, many, doc


class BootClaim:
    """A boot method's answer to "can you boot this?".

    score  0..100, the best claim wins: 100 a magic number that only this format has
    name   for messages: ``"Linux bzImage"``
    plan   called with the :class:`PlanContext` when chosen; adds what must be loaded
           (``context.load_file``, ``context.load_bytes``) and returns the *entry*, a dict that the
           architecture understands (see ``docs/architecture.md``, "Entry")
    """

    __slots__ = ("name", "plan", "score")

    def __init__(self, score: int, name: str, plan: Callable[[PlanContext], dict[str, Any]]) -> None:
        self.score, self.name, self.plan = score, name, plan


if TYPE_CHECKING:

    class Arch(Protocol):
        """What an architecture plugin gives the planner (:func:`vmm_arch`)."""

        name: str
        #: module of the machine half, imported by the runner; holds ``class Platform``
        #: (see :class:`vmmcore.machine.assembly.Platform`)
        machine_module: str
        #: optional: flags of devices that every machine has, where a plugin offers them
        devices: Sequence[str]
        #: optional: likewise, of machines that start with firmware
        firmware_devices: Sequence[str]

        def layout(self, config: Any) -> Layout:
            """Where RAM, PCI windows and GSIs are. Raises UserError for what cannot be laid out."""

        def finish(self, context: PlanContext, entry: dict[str, Any] | None) -> None:
            """Called last: firmware tables, boot structures, first registers (``plan["entry"]``)."""


@hookspec
def vmm_device_types() -> Sequence[DeviceType]:  # type: ignore[empty-body]
    """The device types of this plugin. Called once, when the plugin is loaded."""


@hookspec(firstresult=True)
def vmm_arch(machine: str) -> Arch | None:
    """The architecture for a host whose ``uname -m`` is `machine`, or None."""


@hookspec
def vmm_boot_probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """Can this plugin boot the file? `head`: its first 64 KiB; `size`: bytes of the whole file.

    Raise :class:`vmmcore.errors.UserError` only for a file that is surely yours and surely broken.
    """


@hookspec
def vmm_cmdline_words(context: PlanContext) -> Sequence[str]:  # type: ignore[empty-body]
    """Words for the kernel command line. Asked only when the user gave no ``--cmdline``."""


@hookspec
def vmm_acpi_nodes(context: PlanContext) -> Sequence[bytes]:  # type: ignore[empty-body]
    r"""AML objects to place in ``\_SB`` (x86-64; AArch64 with UEFI)."""


@hookspec
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:  # type: ignore[empty-body]
    """Nodes to place in the root of the device tree (AArch64), each with its name and properties.

    A property is a string, a list of strings, one 32-bit cell (int), a list of cells, bytes as they are, True
    (present, empty), or a dict: a node inside. Addresses and sizes in the root have two cells, an interrupt has
    three (Devicetree Specification 0.4 §2.2.4, and the kernel's binding arm,gic-v3).
    """


@hookspec
def vmm_plan_ready(context: PlanContext) -> None:
    """A last look at the finished plan (``context.plan``) before it is run; may change it."""


@hookspec
def vmm_vm_event(vm_id: str, event: str, data: dict[str, Any]) -> None:
    """Something happened to a VM: created, booted, paused, resumed, rebooted, ending, exited,
    device-added, device-removed (docs/hooks.md says what comes with each).

    Runs in the front. A front in which a plugin implements this hook stays beside its runner.
    """
