"""Which NVIDIA chip this is, and what of its boot depends on that: one row for each.

A card is known by NV_PMC_BOOT_42, never by a list of PCI ids: those are for scanning only. A row
says how the card is started and which of the generations of page tables, doorbells and firmware it
has. Rows of chips that nobody could try say why they are refused.

Sources: open-gpu-kernel-modules 570.144 `nv_ref.h`, `chips2halspec.c`, `g_nv_name_released.h`;
`gsp_fw_heap.h`; linux-firmware `nvidia/*/gsp`; sizes of reserved regions as tinygrad's boot, proven
on hardware, sets them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from exosuit.datasheet import Word, bits, flag
from exosuit.units import GiB, KiB, MiB, round_up

VENDOR_ID = 0x10DE
FIRMWARE_VERSION = "570.144"
"""The release of GSP-RM whose structures `silicon.nvidia` describes."""
VENDOR_BITS = 0x3F
"""BOOT_42's architecture when nobody answers: all ones, not a chip."""


_HEAP_OS = 22 * MiB
"""Of the firmware's operating system, libos 3."""
_HEAP_CLIENTS = 48 * KiB * 2048
"""Of its clients: 2,048 channels."""


class Boot0(Word):
    """NV_PMC_BOOT_0."""

    minor_revision = bits(3, 0)
    major_revision = bits(7, 4)
    architecture_1 = flag(8, "the architecture's high bit")
    implementation = bits(23, 20)
    architecture_0 = bits(28, 24)


class Boot42(Word):
    """NV_PMC_BOOT_42."""

    minor_extended_revision = bits(11, 8)
    minor_revision = bits(15, 12)
    major_revision = bits(19, 16)
    implementation = bits(23, 20)
    architecture = bits(29, 24)


class Architecture(Enum):
    """Families by BOOT_42's architecture."""

    TURING = 0x16
    AMPERE = 0x17
    HOPPER = 0x18
    ADA = 0x19
    BLACKWELL_1 = 0x1A
    BLACKWELL_2 = 0x1B

    @property
    def title(self) -> str:
        return self.name.split("_")[0].capitalize()


class Start(Enum):
    """Who starts the GSP."""

    BOOTER = "booter"
    """The host: FWSEC out of the VBIOS on the GSP's falcon, then the booter on SEC2."""
    FSP = "fsp"
    """The FSP, which is asked by one message and runs the FMC on the GSP."""


@dataclass(frozen=True)
class Chip:
    """What of a card's boot depends on its chip.

    sm              what programs are compiled for
    mmu             version of the page tables, 2 or 3
    folder          of its firmware, below `nvidia/` in linux-firmware
    signature       ELF section of the GSP image with this family's signature
    heap_base       of GSP-RM's heap, what does not grow with memory or clients
    frts_from_end   FSP only: FRTS lies so far below the end of VRAM
    non_wpr_bytes, pmu_bytes  heap outside of WPR2, and room of the PMU
    token_enabled   a work-submit token needs bit 30
    refused         why this chip is not booted, or empty
    """

    name: str
    architecture: Architecture
    implementation: int
    sm: str
    start: Start
    mmu: int
    folder: str
    signature: str
    heap_base: int
    non_wpr_bytes: int
    pmu_bytes: int = 0
    frts_from_end: int = 0
    token_enabled: bool = False
    refused: str = ""

    def heap_bytes(self, vram_bytes: int) -> int:
        """What GSP-RM takes for its heap on a card with so much memory (`gsp_fw_heap.h`)."""
        grown = round_up(96 * KiB * -(-vram_bytes // GiB), MiB)
        return _HEAP_OS + self.heap_base + grown + _HEAP_CLIENTS

    def firmware(self, name: str) -> str:
        """Path of one of its firmware files, as linux-firmware lays them out."""
        return f"nvidia/{self.folder}/gsp/{name}-{FIRMWARE_VERSION}.bin"


GSP_IMAGE = f"nvidia/ga102/gsp/gsp-{FIRMWARE_VERSION}.bin"
"""One image for GA10x, AD10x, GH100, GB10x and GB20x; the other folders link to it."""

_UNTRIED = "its boot differs, and nobody could try it"


def _ampere(name: str, implementation: int) -> Chip:
    return Chip(
        name, Architecture.AMPERE, implementation, "sm_86", Start.BOOTER, 2, "ga102",
        ".fwsignature_ga10x", heap_base=8 * MiB, non_wpr_bytes=0x10_0000,
    )  # fmt: skip


def _ada(name: str, implementation: int) -> Chip:
    return Chip(
        name, Architecture.ADA, implementation, "sm_89", Start.BOOTER, 2, "ad102",
        ".fwsignature_ad10x", heap_base=8 * MiB, non_wpr_bytes=0x10_0000,
    )  # fmt: skip


def _blackwell(name: str, implementation: int, sm: str = "sm_120", refused: str = "") -> Chip:
    return Chip(
        name, Architecture.BLACKWELL_2, implementation, sm, Start.FSP, 3, "gb202",
        ".fwsignature_gb20x", heap_base=14 * MiB, non_wpr_bytes=0x22_0000,
        pmu_bytes=0x182_0000, frts_from_end=0x1C0_0000, token_enabled=True, refused=refused,
    )  # fmt: skip


def _blackwell_1(name: str, implementation: int, sm: str) -> Chip:
    return Chip(
        name, Architecture.BLACKWELL_1, implementation, sm, Start.FSP, 3, "gb100",
        ".fwsignature_gb10x", heap_base=14 * MiB, non_wpr_bytes=0x22_0000,
        pmu_bytes=0x182_0000, frts_from_end=0x1C0_0000, refused=_UNTRIED,
    )  # fmt: skip


CHIPS = (
    Chip(
        "GA100", Architecture.AMPERE, 0, "sm_80", Start.BOOTER, 2, "ga100", ".fwsignature_ga100",
        heap_base=8 * MiB, non_wpr_bytes=0x10_0000,
        refused="its GSP image is Turing's, with a boot loader of its own that nobody could try",
    ),
    _ampere("GA102", 2),
    _ampere("GA103", 3),
    _ampere("GA104", 4),
    _ampere("GA106", 6),
    _ampere("GA107", 7),
    Chip(
        "GH100", Architecture.HOPPER, 0, "sm_90", Start.FSP, 3, "gh100", ".fwsignature_gh100",
        heap_base=14 * MiB, non_wpr_bytes=0x20_0000, frts_from_end=0x20_0000,
        refused="its FSP takes another version of the boot message, which nobody could try",
    ),
    _ada("AD102", 2),
    _ada("AD103", 3),
    _ada("AD104", 4),
    _ada("AD106", 6),
    _ada("AD107", 7),
    _blackwell_1("GB100", 0x0, "sm_100"),
    _blackwell_1("GB102", 0x2, "sm_100"),
    _blackwell_1("GB110", 0x3, "sm_103"),
    _blackwell_1("GB112", 0x4, "sm_103"),
    _blackwell("GB202", 0x2),
    _blackwell("GB203", 0x3),
    _blackwell("GB205", 0x5),
    _blackwell("GB206", 0x6),
    _blackwell("GB207", 0x7),
    _blackwell("GB20B", 0xB, "sm_121", "it shares its memory with the host's processor"),
    _blackwell("GB20C", 0xC, "sm_121", "it shares its memory with the host's processor"),
)  # fmt: skip
_BY_IDENTITY = {(chip.architecture.value, chip.implementation): chip for chip in CHIPS}
BY_NAME = {chip.name: chip for chip in CHIPS}


def find_chip(identity: int) -> Chip | None:
    """The chip that NV_PMC_BOOT_42 tells of; None where the table has no row for it."""
    boot = Boot42(identity)
    return _BY_IDENTITY.get((boot.architecture, boot.implementation))


def boot_42(chip: Chip, revision: int = 0xA1) -> Boot42:
    """The identity of a chip, as its register reads."""
    return Boot42(
        implementation=chip.implementation,
        architecture=chip.architecture.value,
        major_revision=revision >> 4,
        minor_revision=revision & 0xF,
    )


def boot_0(chip: Chip, revision: int = 0xA1) -> Boot0:
    """The same in NV_PMC_BOOT_0."""
    return Boot0(
        implementation=chip.implementation,
        architecture_0=chip.architecture.value & 0x1F,
        architecture_1=bool(chip.architecture.value >> 5),
        major_revision=revision >> 4,
        minor_revision=revision & 0xF,
    )
