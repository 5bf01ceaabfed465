"""`KernelDriverRoute`: a card brought up to two scheduled channels through NVIDIA's kernel driver.

The bring-up is a list of named steps, in the order that the resource manager demands. Rings and
control blocks lie in memory of the card, which the driver maps write-combined whatever is asked
(OGKM `escape.c`, `mapping_cpu.c`), so they are flushed before the doorbell, a register, is written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from exosuit.clock import Clock
from exosuit.driver.boot import BootStep, Progress, StepReport, explain, run_steps, silent
from exosuit.driver.nvidia.kernel_driver import faults, refusals
from exosuit.driver.nvidia.kernel_driver.address_space import AddressSpace
from exosuit.driver.nvidia.kernel_driver.client import KernelClient
from exosuit.driver.nvidia.kernel_driver.gpu import Gpu, choose_card, list_cards, target_of
from exosuit.driver.nvidia.kernel_driver.memory import KernelMemory
from exosuit.driver.nvidia.objects import (
    ChannelObjects,
    ChannelPlace,
    Classes,
    GroupObjects,
    ask,
    channel_params,
    choose_classes,
    make_channel,
    make_debugger,
    make_group,
    make_va_space,
    read_errors,
    schedule,
)
from exosuit.driver.nvidia.route import PAGE, Channel, Data, Facts, Memory
from exosuit.errors import ExosuitError
from exosuit.link.nodes import DeviceNodes, Mapping
from exosuit.silicon.nvidia.channel import Userd, Usermode
from exosuit.silicon.nvidia.rm import Notification
from exosuit.silicon.nvidia.rm_controls import BoostFlags, GrInfoIndex, PerfBoost
from exosuit.silicon.pci import ALL_ONES
from exosuit.units import round_up

RING_ENTRIES = 4096
_RING_BYTES = 8 * RING_ENTRIES
_CHANNEL_BYTES = round_up(_RING_BYTES + Userd.SIZE, PAGE)
_USERMODE_BYTES = 0x1_0000
_TIME_HIGH = Usermode.TIME_1.description.offset
_DOORBELL = Usermode.NOTIFY_CHANNEL_PENDING.description.offset
_BOOST_TO_MAX = 2
_FOR_EVER = 0xFFFF_FFFF
_NOTED = 0xFFFF


@dataclass(frozen=True)
class _Part:
    """Part of a mapping, as a window of its own."""

    mapping: Mapping
    start: int

    def read32(self, offset: int) -> int:
        return self.mapping.read32(self.start + offset)

    def write32(self, offset: int, value: int) -> None:
        self.mapping.write32(self.start + offset, value)

    def write(self, offset: int, data: Data) -> None:
        self.mapping.write(self.start + offset, data)


class KernelDriverRoute:
    """Card `index` of the driver. Implements `Route` once it is brought up; owns all it opened."""

    def __init__(self, nodes: DeviceNodes, index: int, clock: Clock, hang_s: float) -> None:
        self.name = f"nvidia:{index}"
        self.clock = clock
        self.hang_s = hang_s
        self.reports: list[StepReport] = []
        self._index = index
        self._notifiers: list[Mapping] = []
        self._problem: ExosuitError | None = None
        self._open = contextlib.ExitStack()
        self.client = KernelClient(nodes)
        self._open.callback(self.client.close)

    # Filled by the steps, in this order.
    gpu: Gpu
    facts: Facts
    compute: Channel
    copy: Channel
    classes: Classes
    _space: AddressSpace
    _memory: KernelMemory
    _usermode: Mapping
    _va_space: int
    _rings: Mapping
    _rings_at: Memory
    _group: GroupObjects
    _compute_objects: ChannelObjects
    _debugger: int

    @classmethod
    def open(
        cls, nodes: DeviceNodes, index: int, clock: Clock, hang_s: float,
        progress: Progress = silent,
    ) -> KernelDriverRoute:  # fmt: skip
        """Bring card `index` up. Raises an ExosuitError whose field `step` says where."""
        route = cls(nodes, index, clock, hang_s)
        try:
            route.reports = run_steps(route.steps(), route.client, clock, progress)
        except BaseException:
            route.stop()
            raise
        return route

    def steps(self) -> list[BootStep]:
        """The bring-up in order; each step needs those before it."""
        return [
            BootStep("version", "whether the driver's records are known", self._check_version),
            BootStep("card", "the kernel starts the card when its node opens", self._open_card),
            BootStep("classes", "what the card offers, the newest of each", self._choose_classes),
            BootStep("facts", "its name, SMs and memory", self._read_facts),
            BootStep("doorbell", "the page that wakes a channel, in this process", self._map_page),
            BootStep("clocks", "full clocks for as long as the client lives", self._boost),
            BootStep(
                "addresses", "an address space, whose page tables UVM keeps", self._make_space
            ),
            BootStep("group", "rings, and a group of channels on them", self._make_group),
            BootStep("compute", "the compute channel", self._make_compute),
            BootStep("copy", "the copy channel", self._make_copy),
            BootStep("schedule", "both channels may run", self._schedule),
        ]

    def explain(self) -> list[str]:
        """How the card was brought up, for people."""
        facts, calls = self.facts, self.client.counters.round_trips
        return [
            f"{facts.chip} at {self.gpu.address} through NVIDIA's kernel driver"
            f" {self.client.version}; {calls} calls of the kernel so far",
            *explain(self.reports),
        ]

    def take(self, size: int, name: str) -> Memory:
        return self._memory.take(size, name)

    def take_low(self, size: int, name: str) -> Memory:
        return self._memory.take_low(size, name)

    def take_host(self, size: int, name: str) -> Memory:
        return self._memory.take_host(size, name)

    def give(self, memory: Memory) -> None:
        self._memory.give(memory)

    def flush(self) -> None:
        """Nothing to do: a map has reached the card when the kernel returns from it."""

    def ring_doorbell(self, token: int) -> None:
        self._rings.flush()
        self._usermode.write32(_DOORBELL, token)

    def check(self) -> None:
        """Look at the notifiers, in the host's memory; ask the driver only if one was written.

        A card that is gone writes none: its timer then reads as all ones.
        """
        if self._problem is not None:
            raise self._problem
        noted = [xid for notifier in self._notifiers if (xid := _noted(notifier)) is not None]
        if noted:
            self._problem = self._explain(noted[0])
        elif self._usermode.read32(_TIME_HIGH) == ALL_ONES:
            self._problem = refusals.lost("a read of its timer")
        if self._problem is not None:
            raise self._problem

    def _explain(self, xid: int) -> ExosuitError:
        errors = None
        with contextlib.suppress(ExosuitError):  # a card that is gone cannot be asked
            errors = read_errors(
                self.client, self._debugger, self._compute_objects.channel, self.facts.sm_count
            )
        return faults.explain(xid, errors, self._memory.named())

    def stop(self) -> None:
        """Give up channels, memory and files. What a client has, the kernel frees with its file."""
        self._open.close()

    def _check_version(self) -> None:
        self.client.choose_branch()

    def _open_card(self) -> None:
        self.gpu = Gpu(self.client, choose_card(list_cards(self.client), self._index))
        self._open.callback(self.gpu.close)

    def _choose_classes(self) -> None:
        self.classes = choose_classes(self.client, self.gpu.objects.device)

    def _read_facts(self) -> None:
        name, info = self.gpu.name(), self.gpu.graphics_info()
        self._space = AddressSpace(self.client)
        self._open.callback(self._space.close)
        self._memory = KernelMemory(self.gpu, self._space)
        version = info[GrInfoIndex.SM_VERSION]
        self.facts = Facts(
            chip=name,
            target=target_of(version, name),
            sm_version=version,
            compute_class=self.classes.compute,
            copy_class=self.classes.copy,
            gpfifo_class=self.classes.gpfifo,
            sm_count=self.gpu.sm_count(),
            gpcs=info[GrInfoIndex.LITTER_NUM_GPCS],
            tpcs_per_gpc=info[GrInfoIndex.LITTER_NUM_TPC_PER_GPC],
            sms_per_tpc=info[GrInfoIndex.LITTER_NUM_SM_PER_TPC],
            max_warps_per_sm=info[GrInfoIndex.MAX_WARPS_PER_SM],
            vram_bytes=self._memory.local_bytes,
        )

    def _map_page(self) -> None:
        page, _ = self.client.allocate(self.gpu.objects.subdevice, self.classes.usermode)
        self._usermode = self.gpu.show(page, _USERMODE_BYTES)

    def _boost(self) -> None:
        flags = BoostFlags(command=_BOOST_TO_MAX, cuda=True, high_priority=True)
        question = PerfBoost.make(flags=flags, duration=_FOR_EVER)
        # Who has no right to it computes at the clocks that the card chooses.
        with contextlib.suppress(ExosuitError):
            ask(self.client, self.gpu.objects.subdevice, question)

    def _make_space(self) -> None:
        self._va_space = make_va_space(self.client, self.gpu.objects.device)
        self._space.register(self.gpu.uuid(), self._va_space)

    def _make_group(self) -> None:
        self._rings_at = self._memory.take_contiguous(2 * _CHANNEL_BYTES, "rings")
        handle = self._memory.handle_of(self._rings_at)
        self._rings = self.gpu.show(handle, self._rings_at.reserved)
        self._group = make_group(self.client, self.gpu.objects.device, self._va_space)
        self._open.callback(self._free_group)

    def _make_compute(self) -> None:
        made, self.compute = self._make_channel("compute", 0, self.classes.compute)
        self._compute_objects = made
        self._debugger = make_debugger(self.client, self.gpu.objects.device, made.engine)

    def _make_copy(self) -> None:
        _, self.copy = self._make_channel("copy", _CHANNEL_BYTES, self.classes.copy)

    def _make_channel(
        self, name: str, start: int, engine_class: int
    ) -> tuple[ChannelObjects, Channel]:
        """A channel whose ring begins at `start` of the rings, its control block behind it."""
        ring, userd = _Part(self._rings, start), _Part(self._rings, start + _RING_BYTES)
        userd.write(0, bytes(Userd.SIZE))
        notifier = self._memory.make_notifier()
        self._notifiers.append(self.gpu.show(notifier, PAGE, system=True))
        place = ChannelPlace(
            ring=self._rings_at.address + start,
            entries=RING_ENTRIES,
            userd=self._memory.handle_of(self._rings_at),
            userd_offset=userd.start,
            errors=notifier,
        )
        params = channel_params(self.client.branch, self._group, place)
        made = make_channel(
            self.client, self._group, self.classes.gpfifo, engine_class, bytes(params)
        )
        self._space.register_channel(made.channel, self._memory.channel_addresses())
        self._open.callback(self._unregister, made.channel)
        return made, Channel(name, engine_class, ring, RING_ENTRIES, userd, made.token)

    def _schedule(self) -> None:
        schedule(self.client, self._group)

    def _unregister(self, channel: int) -> None:
        with contextlib.suppress(ExosuitError):  # a card that is gone has no channels either
            self._space.unregister_channel(channel)

    def _free_group(self) -> None:
        with contextlib.suppress(ExosuitError):
            self.client.free(self._group.group)


def _noted(notifier: Mapping) -> int | None:
    """The number of the error that stopped a channel, or None while it runs."""
    last = notifier.read32(Notification.SIZE - 4)
    if last >> 16 != _NOTED:
        return None
    return notifier.read32(Notification.SLOTS["info32"].offset)
