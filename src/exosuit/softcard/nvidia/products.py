"""The NVIDIA cards that are modelled: what is on their boards beside the chip.

Sources: NVIDIA's product pages and architecture whitepapers (GA102, AD102, RTX Blackwell) for
memory, SMs, bandwidth and clocks; OGKM `g_nv_name_released.h` for ids; the version that GB20x
reports for its SMs as OGKM 570 `ctrl2080gr.h` has it. The chips' largest counts of GPCs and TPCs
are the whole dies'.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.silicon.nvidia.chips import BY_NAME, Chip
from exosuit.silicon.nvidia.classes import ComputeClass, CopyClass, GpfifoClass, UsermodeClass
from exosuit.units import GiB


@dataclass(frozen=True)
class Product:
    """One card.

    name              what follows `soft:`
    vram_bytes        as sold
    sms               enabled, of gpcs * tpcs_per_gpc * sms_per_tpc
    sm_version        as GR_INFO tells it
    usermode, gpfifo, compute, copies
                      classes that its firmware offers, oldest first
    bandwidth         of its memory, bytes per second
    clock_mhz         boost clock
    lanes_per_sm      multiply-adds per clock
    """

    name: str
    title: str
    chip: Chip
    device_id: int
    vram_bytes: int
    sms: int
    gpcs: int
    tpcs_per_gpc: int
    sm_version: int
    usermode: tuple[UsermodeClass, ...]
    gpfifo: tuple[GpfifoClass, ...]
    compute: ComputeClass
    copies: tuple[CopyClass, ...]
    bandwidth: float
    clock_mhz: int
    sms_per_tpc: int = 2
    warps_per_sm: int = 48
    lanes_per_sm: int = 128


PRODUCTS = (
    Product(
        "ga102", "GeForce RTX 3090", BY_NAME["GA102"], 0x2204, 24 * GiB,
        sms=82, gpcs=7, tpcs_per_gpc=6, sm_version=0x806,
        usermode=(UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A),
        gpfifo=(GpfifoClass.AMPERE_A,),
        compute=ComputeClass.AMPERE_B, copies=(CopyClass.AMPERE_B,),
        bandwidth=936e9, clock_mhz=1695,
    ),
    Product(
        "ad102", "GeForce RTX 4090", BY_NAME["AD102"], 0x2684, 24 * GiB,
        sms=128, gpcs=12, tpcs_per_gpc=6, sm_version=0x809,
        usermode=(UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A),
        gpfifo=(GpfifoClass.AMPERE_A,),
        compute=ComputeClass.ADA_A, copies=(CopyClass.AMPERE_B,),
        bandwidth=1008e9, clock_mhz=2520,
    ),
    Product(
        "gb202", "GeForce RTX 5090", BY_NAME["GB202"], 0x2B85, 32 * GiB,
        sms=170, gpcs=12, tpcs_per_gpc=8, sm_version=0xA04,
        usermode=tuple(UsermodeClass),
        gpfifo=tuple(GpfifoClass),
        compute=ComputeClass.BLACKWELL_B, copies=(CopyClass.BLACKWELL_B,),
        bandwidth=1792e9, clock_mhz=2407,
    ),
)  # fmt: skip
