"""The packets that tests of queues are made of."""

from tests.softcard.bring_up import (
    FREE,
    VA,
)

from exosuit.silicon.amd import pm4
from exosuit.silicon.amd.chips import BASES
from exosuit.silicon.amd.compute import Compute, sh_index
from exosuit.silicon.amd.discovery import HardwareId

DATA = VA + 0x200000
AT = FREE + 0x200000
GC = BASES[HardwareId.GC][0]


def set_sh(name: str, *values: int) -> bytes:
    register = sh_index(Compute.REGISTERS[name], GC)
    rest = b"".join(value.to_bytes(4, "little") for value in values)
    return bytes(pm4.SetShReg.build(rest, register=register))


def dispatch(entry: int, groups: int = 4, caches: pm4.CacheControl = pm4.ALL_CACHES) -> bytes:
    at = entry >> 8
    return (
        (bytes(pm4.AcquireMem.build(caches=caches)) if caches else b"")
        + set_sh("COMPUTE_PGM", at & 0xFFFF_FFFF, at >> 32)
        + set_sh("COMPUTE_NUM_THREAD_X", 64, 1, 1)
        + set_sh("COMPUTE_USER_DATA", 0x1000, 0x2000)
        + bytes(
            pm4.DispatchDirect.build(
                x=groups,
                y=1,
                z=1,
                initiator=pm4.DispatchInitiator(
                    compute_shader_en=True, force_start_at_000=True, cs_w32_en=True
                ),
            )
        )
    )


def write(address: int, value: int) -> pm4.WriteData:
    return pm4.WriteData.build(
        value.to_bytes(4, "little"),
        control=pm4.WriteControl(dst_sel=pm4.WriteTarget.MEMORY),
        address=address,
    )


def release(address: int, value: int, **destination: int) -> pm4.ReleaseMem:
    chosen = {"data_sel": pm4.ReleaseDatum.LOW_32, **destination}
    return pm4.ReleaseMem.build(
        control=pm4.RELEASE_ALL,
        destination=pm4.ReleaseDestination(**chosen),
        address=address,
        value=value,
    )


def wait(address: int, value: int, function: pm4.Compare = pm4.Compare.GREATER_EQUAL):
    return pm4.WaitRegMem.build(
        control=pm4.WaitControl(function=function, mem_space=True),
        address=address,
        reference=value,
        mask=0xFFFF_FFFF,
        interval=4,
    )


FLUSH = pm4.EventWrite.build(event=pm4.PARTIAL_FLUSH)
