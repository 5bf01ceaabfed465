"""Cards that the software kernel driver can have, beyond those that are modelled whole.

Sources: NVIDIA's data sheets of A100 and H200 for memory, SMs, clocks and bandwidth; OGKM
`g_gpu_class_list.c` for classes, `g_nv_name_released.h` for ids.
"""

from __future__ import annotations

from exosuit.silicon.nvidia.chips import BY_NAME
from exosuit.silicon.nvidia.classes import ComputeClass, CopyClass, GpfifoClass, UsermodeClass
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.nvidia.products import PRODUCTS as WHOLE
from exosuit.softcard.nvidia.products import Product
from exosuit.units import GiB

PRODUCTS = {
    product.name: product
    for product in (
        *WHOLE,
        Product(
            "ga100", "NVIDIA A100-SXM4-80GB", BY_NAME["GA100"], 0x20B2, 80 * GiB,
            usermode=(UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A),
            gpfifo=(GpfifoClass.AMPERE_A,),
            compute=ComputeClass.AMPERE_A, copies=(CopyClass.AMPERE_A,),
            shape=Shape(
                sm=80, sm_version=0x800, gpcs=8, tpcs_per_gpc=8, sms_per_tpc=2, sm_count=108,
                clock_mhz=1410, bandwidth=2039e9,
            ),
        ),
        Product(
            "gh100", "NVIDIA H200", BY_NAME["GH100"], 0x2335, 141 * GiB,
            usermode=(
                UsermodeClass.VOLTA_A, UsermodeClass.TURING_A, UsermodeClass.AMPERE_A,
                UsermodeClass.HOPPER_A,
            ),
            gpfifo=(GpfifoClass.AMPERE_A, GpfifoClass.HOPPER_A),
            compute=ComputeClass.HOPPER_A, copies=(CopyClass.HOPPER_A,),
            shape=Shape(
                sm=90, sm_version=0x900, gpcs=8, tpcs_per_gpc=9, sms_per_tpc=2, sm_count=132,
                clock_mhz=1980, bandwidth=4800e9,
            ),
        ),
    )
}  # fmt: skip
"""By name."""

OLDER_CLASSES = (0xC36F, 0xC46F)
"""Channels of Volta and Turing, which newer cards go on listing."""
TURING_CLASSES = (0xC361, 0xC461, 0xC36F, 0xC46F, 0xC5C0, 0xC5B5)
"""What a TU102 lists: nothing of it computes here."""
