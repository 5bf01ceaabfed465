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
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.units import GiB


@dataclass(frozen=True)
class Product:
    """One card.

    name        what follows `soft:`
    vram_bytes  as sold
    usermode, gpfifo, compute, copies
                classes that its firmware offers, oldest first
    """

    name: str
    title: str
    chip: Chip
    device_id: int
    vram_bytes: int
    usermode: tuple[UsermodeClass, ...]
    gpfifo: tuple[GpfifoClass, ...]
    compute: ComputeClass
    copies: tuple[CopyClass, ...]
    shape: Shape


PRODUCTS = (
    Product(
        "ga102", "GeForce RTX 3090", BY_NAME["GA102"], 0x2204, 24 * GiB,
        usermode=(UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A),
        gpfifo=(GpfifoClass.AMPERE_A,),
        compute=ComputeClass.AMPERE_B, copies=(CopyClass.AMPERE_B,),
        shape=Shape(
            sm=86, sm_version=0x806, gpcs=7, tpcs_per_gpc=6, sms_per_tpc=2, sm_count=82,
            clock_mhz=1695, bandwidth=936e9,
        ),
    ),
    Product(
        "ad102", "GeForce RTX 4090", BY_NAME["AD102"], 0x2684, 24 * GiB,
        usermode=(UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A),
        gpfifo=(GpfifoClass.AMPERE_A,),
        compute=ComputeClass.ADA_A, copies=(CopyClass.AMPERE_B,),
        shape=Shape(
            sm=89, sm_version=0x809, gpcs=12, tpcs_per_gpc=6, sms_per_tpc=2, sm_count=128,
            clock_mhz=2520, bandwidth=1008e9,
        ),
    ),
    Product(
        "gb202", "GeForce RTX 5090", BY_NAME["GB202"], 0x2B85, 32 * GiB,
        usermode=tuple(UsermodeClass),
        gpfifo=tuple(GpfifoClass),
        compute=ComputeClass.BLACKWELL_B, copies=(CopyClass.BLACKWELL_B,),
        shape=Shape(
            sm=120, sm_version=0xA04, gpcs=12, tpcs_per_gpc=8, sms_per_tpc=2, sm_count=170,
            clock_mhz=2407, bandwidth=1792e9,
        ),
    ),
)  # fmt: skip
