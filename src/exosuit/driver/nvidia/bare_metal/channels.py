"""The two channels that work is put into: their objects in the firmware, their rings in VRAM.

The tree is that of `objects`, as through the kernel driver; what differs is that the host gives the
address space its page directory, each channel its memory, and the compute channel its context.
Rings and control blocks lie in VRAM: the card fetches from there without the link, and the host
writes an entry, GP_PUT and the doorbell, which the bus keeps in order.

Sources: open-gpu-kernel-modules 570.144 `kernel_channel.c` (firmware goes by the descriptions of
memory, not by its handles; the token); tinygrad `nv/ip.py`.
"""

from __future__ import annotations

import math

from exosuit.driver.nvidia.bare_metal.contexts import Contexts, Window, take_channel
from exosuit.driver.nvidia.bare_metal.rpc import FirmwareClient, FirmwareRpc
from exosuit.driver.nvidia.bare_metal.vm import AddressSpace
from exosuit.driver.nvidia.bare_metal.vram import VramPart
from exosuit.driver.nvidia.objects import (
    ChannelObjects,
    ChannelPlace,
    Classes,
    Errors,
    ask,
    channel_params,
    make_channel,
    make_debugger,
    make_device,
    make_group,
    make_va_space,
    read_errors,
    schedule,
)
from exosuit.driver.nvidia.route import Channel
from exosuit.link.function import Bar
from exosuit.silicon.nvidia.channel import WorkSubmitToken
from exosuit.silicon.nvidia.chips import Chip
from exosuit.silicon.nvidia.classes import Engine
from exosuit.silicon.nvidia.gsp_controls import GspControl, StaticGrInfo
from exosuit.silicon.nvidia.paging import FORMATS
from exosuit.silicon.nvidia.rm import ChannelParams
from exosuit.silicon.nvidia.rm_controls import BoostFlags, GrInfoIndex, PerfBoost
from exosuit.silicon.nvidia.rpc import NO_PASID, Function, PageDirectoryFlags, SetPageDirectory

RING_ENTRIES = 1024
_CLIENT = 0xC100_0000
_BOOST_TO_MAX = 2
_FOR_EVER = 0xFFFF_FFFF


class UserChannels:
    """A client with a compute channel and a copy channel, both scheduled.

    graphics  what the firmware says of the card's SMs, by GrInfoIndex
    """

    def __init__(
        self,
        chip: Chip,
        rpc: FirmwareRpc,
        space: AddressSpace,
        bar: Bar,
        window: Window,
        contexts: Contexts,
        classes: Classes,
    ) -> None:
        self._chip = chip
        self._space = space
        self._bar = bar
        self._window = window
        self._contexts = contexts
        self._classes = classes
        self._rm = FirmwareClient(rpc, _CLIENT)
        self._rpc = rpc
        self._objects = make_device(self._rm)
        self._boost()
        self._va_space = self._make_va_space()
        self._group = make_group(self._rm, self._objects.device, self._va_space)
        made, self.compute = self._make_channel("compute", classes.compute)
        contexts.add_user(self._rm, self._objects, made.channel)
        self._compute = made
        _, self.copy = self._make_channel("copy", classes.copy)
        self._debugger = make_debugger(self._rm, self._objects.device, made.engine)
        schedule(self._rm, self._group)
        self.gpfifo_class = classes.gpfifo
        self.graphics = self._read_graphics()

    @property
    def sm_count(self) -> int:
        """SMs that the chip has at most: how many are enabled the firmware is not asked."""
        parts = (
            GrInfoIndex.LITTER_NUM_GPCS,
            GrInfoIndex.LITTER_NUM_TPC_PER_GPC,
            GrInfoIndex.LITTER_NUM_SM_PER_TPC,
        )
        return math.prod(self.graphics[part] for part in parts)

    def read_errors(self) -> Errors:
        """What stopped the compute channel, as the debugger knows it."""
        return read_errors(self._rm, self._debugger, self._compute.channel, self.sm_count)

    def _boost(self) -> None:
        flags = BoostFlags(command=_BOOST_TO_MAX, cuda=True, high_priority=True)
        ask(self._rm, self._objects.subdevice, PerfBoost.make(flags=flags, duration=_FOR_EVER))

    def _make_va_space(self) -> int:
        """An address space over the host's own page tables."""
        handle = make_va_space(self._rm, self._objects.device)
        record = SetPageDirectory.make(
            client=self._rm.client,
            device=self._objects.device,
            pasid=NO_PASID,
            address=self._space.root,
            entries=FORMATS[self._chip.mmu].root,
            flags=PageDirectoryFlags(all_channels=True),
            va_space=handle,
            subdevice=1,
            inner_pasid=NO_PASID,
        )
        self._rpc.call(Function.SET_PAGE_DIRECTORY, bytes(record), "the page directory")
        return handle

    def _make_channel(self, name: str, engine_class: int) -> tuple[ChannelObjects, Channel]:
        memory = take_channel(self._window, 8 * RING_ENTRIES)
        ring = self._window.virtual(memory.ring)
        # The firmware goes by the descriptions that follow; handles of memory it has none.
        place = ChannelPlace(ring=ring, entries=RING_ENTRIES, userd=0, userd_offset=0, errors=0)
        params = channel_params(self._rm.branch, self._group, place)
        assert isinstance(params, ChannelParams)
        memory.describe(params)
        made = make_channel(
            self._rm, self._group, self._classes.gpfifo, engine_class, bytes(params)
        )
        # The firmware tells the channel's number alone; the rest is the driver's to know.
        token = WorkSubmitToken(
            made.token,
            runlist=self._contexts.runlists[Engine.GRAPHICS],
            runlist_doorbell=self._chip.token_enabled,
        )
        channel = Channel(
            name, engine_class, VramPart(self._bar, memory.ring), RING_ENTRIES,
            VramPart(self._bar, memory.userd), int(token),
        )  # fmt: skip
        return made, channel

    def _read_graphics(self) -> dict[int, int]:
        command = GspControl.STATIC_KGR_GET_INFO
        record = bytes(StaticGrInfo.make())
        info = StaticGrInfo(self._rm.control(self._objects.subdevice, command, record))
        return {index: entry.value for index, entry in enumerate(info.engines[0].values)}
