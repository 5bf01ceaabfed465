"""Which records each branch of NVIDIA's driver takes: the versioned half of `rm`, `ioctl`, `uvm`.

The driver refuses a record of another size, or worse, reads it otherwise; so there is a table for
each branch whose headers have been read, and none for the others. A branch is the first number of a
version: 580 of 580.142.

Sources: those of `rm`, compiled; branch 610 from tinygrad 0.14 `runtime/autogen/nv_610.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exosuit.silicon.nvidia import ioctl, rm, rm_controls, uvm


@dataclass(frozen=True)
class Branch:
    """The records of one branch, where they differ."""

    number: int
    channel: type[rm.ChannelParams | rm.ChannelParamsOf610]
    va_space: type[rm.VaSpaceParams570]
    map_dma: type[ioctl.RmMapMemoryDmaOf570 | ioctl.RmMapMemoryDma]
    class_list: type[rm_controls.ClassListV2Of570 | rm_controls.ClassListV2]
    gpu_name: type[rm_controls.GpuName]
    sm_order: type[rm_controls.SmOrderOf570 | rm_controls.SmOrderOf575 | rm_controls.SmOrder]
    fb_info: type[rm_controls.FbInfoOf570 | rm_controls.FbInfo]
    schedule: type[rm_controls.ScheduleOf570]
    schedule_channel: type[rm_controls.ScheduleChannelOf570]
    uvm_free: type[uvm.FreeOf570 | uvm.Free]
    uvm_unregister_channel: type[uvm.UnregisterChannelOf570 | uvm.UnregisterChannel]


_B570 = Branch(
    number=570,
    channel=rm.ChannelParams,
    va_space=rm.VaSpaceParams570,
    map_dma=ioctl.RmMapMemoryDmaOf570,
    class_list=rm_controls.ClassListV2Of570,
    gpu_name=rm_controls.GpuName,
    sm_order=rm_controls.SmOrderOf570,
    fb_info=rm_controls.FbInfoOf570,
    schedule=rm_controls.ScheduleOf570,
    schedule_channel=rm_controls.ScheduleChannelOf570,
    uvm_free=uvm.FreeOf570,
    uvm_unregister_channel=uvm.UnregisterChannelOf570,
)
_B575 = replace(
    _B570,
    number=575,
    sm_order=rm_controls.SmOrderOf575,
    schedule=rm_controls.Schedule,
    schedule_channel=rm_controls.ScheduleChannel,
)
_B580 = replace(
    _B575,
    number=580,
    va_space=rm.VaSpaceParams,
    map_dma=ioctl.RmMapMemoryDma,
    class_list=rm_controls.ClassListV2,
    sm_order=rm_controls.SmOrder,
    fb_info=rm_controls.FbInfo,
)
_B590 = replace(
    _B580,
    number=590,
    uvm_free=uvm.Free,
    uvm_unregister_channel=uvm.UnregisterChannel,
)
_B595 = replace(_B590, number=595, gpu_name=rm_controls.GpuNameOf595)
_B610 = replace(_B595, number=610, channel=rm.ChannelParamsOf610)

BRANCHES = {branch.number: branch for branch in (_B570, _B575, _B580, _B590, _B595, _B610)}
"""Every branch that there is a table for, the oldest first."""


def branch_of(version: str) -> Branch | None:
    """The table for a driver's version such as `580.142`; None where there is none."""
    first = version.partition(".")[0]
    return BRANCHES.get(int(first)) if first.isdecimal() else None
