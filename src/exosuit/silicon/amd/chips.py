"""The chips: device ids, versions of their blocks, how much of everything they have.

`find_blocks` chooses the register descriptions for the versions that a card's discovery table
names; that is the one place where versions are compared. `CHIPS` holds what cannot be read from a
card before it runs (products, memory, bandwidth) or what a software card needs in order to be one.

The version of the graphics block is not the number of the target: 11.0.3 runs gfx1101 code, 11.0.2
gfx1102 (Linux `kfd_device.c`).

Sources: Linux `amdgpu_discovery.c`, `kfd_device.c`, `soc21.c`, `soc24.c`; the vendor's product
pages for memory, bandwidth, compute units and clocks; shader layouts from Mesa `ac_gpu_info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exosuit.datasheet import Block
from exosuit.errors import UnsupportedCard
from exosuit.silicon.amd import gfx, hqd, hub, ih, nbio, psp, sdma_registers, smu
from exosuit.silicon.amd.discovery import Discovery, HardwareId, Ip, Shaders, Version
from exosuit.units import GiB, KiB

VENDOR_ID = 0x1002
CLASS_CODE = 0x030000


@dataclass(frozen=True, slots=True)
class Blocks:
    """The register descriptions of one card, and which generation of entries it reads.

    generation  11 or 12: page-table entries, packets and descriptors follow it
    target      what programs are compiled for
    """

    target: str
    generation: int
    nbio: type[nbio.Nbio]
    hdp: type[nbio.Hdp]
    psp: type[psp.Psp]
    smu: type[smu.Smu]
    ih: type[ih.Ih]
    gc_hub: type[hub.Hub]
    mm_hub: type[hub.Hub]
    gfx: type[gfx.Gfx]
    hqd: type[hqd.Hqd]
    sdma: type[sdma_registers.Sdma]


TARGETS: Mapping[Version, str] = {
    (11, 0, 0): "gfx1100",
    (11, 0, 2): "gfx1102",
    (11, 0, 3): "gfx1101",
    (12, 0, 0): "gfx1200",
    (12, 0, 1): "gfx1201",
}
"""Versions of the graphics block that exosuit drives, with their targets."""

_GC_HUBS: Mapping[Version, type[hub.Hub]] = {
    (11, 0, 0): hub.GcHub1100,
    (11, 0, 2): hub.GcHub1100,
    (11, 0, 3): hub.GcHub1103,
    (12, 0, 0): hub.GcHub1200,
    (12, 0, 1): hub.GcHub1200,
}
_MM_HUBS: Mapping[Version, type[hub.Hub]] = {
    (3, 0, 0): hub.MmHub300,
    (3, 0, 2): hub.MmHub302,
    (4, 1, 0): hub.MmHub410,
}
_SDMA: Mapping[Version, type[sdma_registers.Sdma]] = {
    (6, 0, 0): sdma_registers.Sdma6,
    (6, 0, 2): sdma_registers.Sdma6,
    (6, 0, 3): sdma_registers.Sdma6,
    (7, 0, 0): sdma_registers.Sdma7,
    (7, 0, 1): sdma_registers.Sdma7,
}
_NBIO: Mapping[int, type[nbio.Nbio]] = {4: nbio.Nbio, 6: nbio.Nbif}
_IH: Mapping[int, type[ih.Ih]] = {6: ih.Ih, 7: ih.Ih7}
_GFX: Mapping[int, type[gfx.Gfx]] = {11: gfx.Gfx, 12: gfx.Gfx12}
PSP_VERSIONS = frozenset({(13, 0, 0), (13, 0, 7), (13, 0, 10), (14, 0, 2), (14, 0, 3)})


def find_blocks(discovery: Discovery) -> Blocks:
    """The descriptions for a card. Raises UnsupportedCard where one of its blocks is not known."""
    graphics = discovery.version(HardwareId.GC)
    target = TARGETS.get(graphics)
    if target is None:
        raise _unknown("graphics", graphics, "gfx1100, gfx1101, gfx1102, gfx1200 or gfx1201")
    memory = discovery.version(HardwareId.MMHUB)
    copies = discovery.version(HardwareId.SDMA0)
    bus = discovery.version(HardwareId.NBIF)
    interrupts = discovery.version(HardwareId.OSSSYS)
    security = discovery.version(HardwareId.MP0)
    if memory not in _MM_HUBS:
        raise _unknown("memory hub", memory, _shown(_MM_HUBS))
    if copies not in _SDMA:
        raise _unknown("copy engine", copies, _shown(_SDMA))
    if bus[0] not in _NBIO:
        raise _unknown("PCIe", bus, "4.x or 6.x")
    if interrupts[0] not in _IH:
        raise _unknown("interrupt", interrupts, "6.x or 7.x")
    if security not in PSP_VERSIONS:
        raise _unknown("security", security, _shown(dict.fromkeys(PSP_VERSIONS)))
    for needed in (HardwareId.MP1, HardwareId.HDP):
        discovery.ip(needed)
    return Blocks(
        target=target,
        generation=graphics[0],
        nbio=_NBIO[bus[0]],
        hdp=nbio.Hdp,
        psp=psp.Psp,
        smu=smu.Smu,
        ih=_IH[interrupts[0]],
        gc_hub=_GC_HUBS[graphics],
        mm_hub=_MM_HUBS[memory],
        gfx=_GFX[graphics[0]],
        hqd=hqd.Hqd,
        sdma=_SDMA[copies],
    )


def _shown(versions: Mapping[Version, object]) -> str:
    return ", ".join(".".join(map(str, version)) for version in sorted(versions))


def _unknown(what: str, version: Version, known: str) -> UnsupportedCard:
    number = ".".join(map(str, version))
    return UnsupportedCard(
        f"the card's {what} block is version {number}, which exosuit does not know",
        cause=f"it knows {known}",
        next="exosuit list   (which cards are known)",
        block=what,
        version=number,
    )


@dataclass(frozen=True, slots=True)
class Chip:
    """One product, as a software card or a plan needs it.

    versions            of its blocks by hardware id
    engines             shader engines, each of so many arrays of so many WGPs of two CUs
    vram_bytes          as sold
    bandwidth           of its memory, bytes per second, by the vendor
    clock_mhz           the vendor's "game clock"
    """

    target: str
    name: str
    device_id: int
    versions: Mapping[HardwareId, Version]
    engines: int
    arrays_per_engine: int
    wgps_per_array: int
    vram_bytes: int
    bandwidth: float
    clock_mhz: int
    clock_levels_mhz: Mapping[smu.Clock, tuple[int, ...]]

    @property
    def compute_units(self) -> int:
        return 2 * self.wgps_per_array * self.arrays_per_engine * self.engines


def _rdna3(gc: Version, mp: Version, sdma: Version, mmhub: Version) -> dict[HardwareId, Version]:
    return {
        HardwareId.GC: gc,
        HardwareId.SDMA0: sdma,
        HardwareId.MMHUB: mmhub,
        HardwareId.NBIF: (4, 3, 0),
        HardwareId.HDP: (6, 0, 0),
        HardwareId.OSSSYS: (6, 0, 0),
        HardwareId.MP0: mp,
        HardwareId.MP1: mp,
    }


def _levels(*gfxclk: int, uclk: int) -> dict[smu.Clock, tuple[int, ...]]:
    """Clock levels in MHz; all but the last of each are `assumed`."""
    return {
        smu.Clock.GFXCLK: gfxclk,
        smu.Clock.SOCCLK: (500, 1000, 1200),
        smu.Clock.UCLK: (96, 456, 772, uclk),
        smu.Clock.FCLK: (600, 1200, 1600),
    }


CHIPS: tuple[Chip, ...] = (
    Chip(
        target="gfx1100",
        name="Radeon RX 7900 XTX",
        device_id=0x744C,
        versions=_rdna3((11, 0, 0), (13, 0, 0), (6, 0, 0), (3, 0, 0)),
        engines=6,
        arrays_per_engine=2,
        wgps_per_array=4,
        vram_bytes=24 * GiB,
        bandwidth=960e9,
        clock_mhz=2300,
        clock_levels_mhz=_levels(500, 2300, uclk=1249),
    ),
    Chip(
        target="gfx1102",
        name="Radeon RX 7600",
        device_id=0x7480,
        versions=_rdna3((11, 0, 2), (13, 0, 7), (6, 0, 2), (3, 0, 2)),
        engines=2,
        arrays_per_engine=2,
        wgps_per_array=4,
        vram_bytes=8 * GiB,
        bandwidth=288e9,
        clock_mhz=2250,
        clock_levels_mhz=_levels(500, 2250, uclk=1124),
    ),
    Chip(
        target="gfx1101",
        name="Radeon RX 7800 XT",
        device_id=0x747E,
        versions=_rdna3((11, 0, 3), (13, 0, 10), (6, 0, 3), (3, 0, 0)),
        engines=3,
        arrays_per_engine=2,
        wgps_per_array=5,
        vram_bytes=16 * GiB,
        bandwidth=624e9,
        clock_mhz=2124,
        clock_levels_mhz=_levels(500, 2124, uclk=1218),
    ),
    Chip(
        target="gfx1201",
        name="Radeon RX 9070 XT",
        device_id=0x7550,
        versions={
            HardwareId.GC: (12, 0, 1),
            HardwareId.SDMA0: (7, 0, 1),
            HardwareId.MMHUB: (4, 1, 0),
            HardwareId.NBIF: (6, 3, 1),
            HardwareId.HDP: (7, 0, 0),
            HardwareId.OSSSYS: (7, 0, 0),
            HardwareId.MP0: (14, 0, 3),
            HardwareId.MP1: (14, 0, 3),
        },
        engines=4,
        arrays_per_engine=2,
        wgps_per_array=4,
        vram_bytes=16 * GiB,
        bandwidth=640e9,
        clock_mhz=2400,
        clock_levels_mhz=_levels(500, 2400, uclk=1258),
    ),
)
"""Products that there are software cards of. Which ids are supported: `silicon.pci_ids`."""


BASES: Mapping[HardwareId, tuple[int, ...]] = {
    HardwareId.GC: (0x1260, 0xA000, 0x1C000, 0x2402C00),
    HardwareId.SDMA0: (0x1260, 0xA000, 0x1C000, 0x2402C00),
    HardwareId.MMHUB: (0x1A000, 0x2408800),
    HardwareId.NBIF: (0x0, 0x14, 0xD20, 0x10400, 0x241B000, 0x4040000),
    HardwareId.HDP: (0xF20, 0x240A400),
    HardwareId.OSSSYS: (0x10A0, 0x240A000),
    HardwareId.MP0: (0x16000, 0xDC0000, 0xE00000, 0xE40000, 0x243FC00),
    HardwareId.MP1: (0x16000, 0xDC0000, 0xE00000, 0xE40000, 0x243FC00),
}
"""Where Navi 3x and 4x put the registers of each block, in dwords: what a software card's
discovery table says. Drivers take what the table says. Source: Linux `navi10_ip_offset.h`."""


def find_chip(target: str) -> Chip:
    """The product that stands for a target; KeyError for a target without one."""
    return {chip.target: chip for chip in CHIPS}[target]


def describe(chip: Chip) -> Discovery:
    """What the discovery table of a product says."""
    return Discovery(
        ips={
            (hardware_id, 0): Ip(hardware_id, 0, version, BASES[hardware_id])
            for hardware_id, version in chip.versions.items()
        },
        shaders=Shaders(
            shader_engines=chip.engines,
            arrays_per_engine=chip.arrays_per_engine,
            wgps_per_array=chip.wgps_per_array,
            max_waves_per_simd=16,
            max_scratch_slots_per_cu=32,
            lds_bytes=64 * KiB,
        ),
    )


def placed_blocks(discovery: Discovery) -> list[tuple[type[Block], tuple[int, ...], str]]:
    """Every described block of a card: its class, its bases in bytes, what precedes its names."""
    blocks = find_blocks(discovery)
    gc = discovery.ip(HardwareId.GC).byte_bases
    mmhub = discovery.ip(HardwareId.MMHUB).byte_bases
    placed: list[tuple[type[Block], tuple[int, ...], str]] = [
        (blocks.nbio, discovery.ip(HardwareId.NBIF).byte_bases, ""),
        (blocks.hdp, discovery.ip(HardwareId.HDP).byte_bases, ""),
        (blocks.psp, discovery.ip(HardwareId.MP0).byte_bases, "MP0_"),
        (blocks.smu, discovery.ip(HardwareId.MP1).byte_bases, "MP1_"),
        (blocks.ih, discovery.ip(HardwareId.OSSSYS).byte_bases, ""),
        (blocks.gc_hub, gc, blocks.gc_hub.PREFIX),
        (blocks.mm_hub, mmhub, blocks.mm_hub.PREFIX),
        (blocks.gfx, gc, ""),
        (blocks.hqd, gc, ""),
        (blocks.sdma, gc, ""),
    ]
    if blocks.mm_hub is hub.MmHub300:
        placed.append((hub.Atc300, mmhub, ""))
    return placed
