"""QMD: the descriptor of one grid, 256 bytes up to Ada, 384 from Hopper on.

Three layouts hold the same facts at other bits: version 3 (Ampere, Ada), 4 (Hopper) and 5
(Blackwell). A `Grid` is those facts; `layout(compute_class)` says which layout holds them, and its
`encode_grid` and `grid` go there and back. Fields have the names of versions 4 and 5 where
version 3 has others (CTA_RASTER_WIDTH, RELEASE0_*).

The engine writes into a QMD while it runs, so it may be launched again only when it is complete.

Sources: NVIDIA/open-gpu-doc `classes/compute/clc6c0qmd.h` (QMDV03_00), `clcbc0qmd.h` (QMDV04_00),
`clcec0qmd.h` (QMDV05_00); the values of fields as tinygrad's `ops_nv.py` (versions 3 and 5) and
Mesa's `nak/qmd.rs` set them. Version 4 with GRID_CTA and a group is assumed, by analogy with 5.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Word, bits, flag, split
from exosuit.silicon.nvidia.classes import ComputeClass
from exosuit.silicon.nvidia.grid import RELEASES, Bank, Grid, Release
from exosuit.silicon.nvidia.qmd_parts import (
    Bank3,
    Bank4,
    BankFlags4,
    Release3,
    Release4,
    ReleaseFlags4,
)

ALIGNMENT = 256
POINTER_SHIFT = 8
GROUP = 0x3F
"""QMD_GROUP_ID: what tinygrad sets on every chip that it drives."""
BANKS = 8
MOST_PREFETCH = 0x1FF
_PREFETCH_SHIFT = 8
_BANK_SIZE_SHIFT = 4


class QmdType(IntEnum):
    QUEUE = 0
    GRID_NULL = 1
    GRID_CTA = 2
    GRID_GPC_CGA = 3
    GRID_GPU_CGA = 4
    GRID_GPU_GPC_CGA = 5


class DependentAction(IntEnum):
    INCREMENT_PUT = 0
    SCHEDULE = 1
    INVALIDATE_COPY_SCHEDULE = 3
    DECREMENT_DEPENDENCE = 4


class MembarType(IntEnum):
    """CWD_MEMBAR_TYPE: what is made visible when the grid ends."""

    L1_NONE = 0
    L1_SYSMEMBAR = 1
    L1_MEMBAR = 3


class Qmd(Word):
    """Fields that all versions have, at places of their own.

    MAJOR           what `qmd_major_version` must say
    PROGRAM_SHIFT, BANK_SHIFT, SHARED_SHIFT, LOCAL_SHIFT
                    what these addresses and sizes are divided by
    """

    MAJOR: ClassVar[int] = 0
    PROGRAM_SHIFT: ClassVar[int] = 0
    BANK_SHIFT: ClassVar[int] = 0
    SHARED_SHIFT: ClassVar[int] = 0
    LOCAL_SHIFT: ClassVar[int] = 0

    @classmethod
    def encode_grid(cls, grid: Grid) -> bytes:
        """The descriptor's bytes."""
        number = int(cls(0, **_shared_fields(cls, grid)))
        for index, bank in grid.banks.items():
            number |= cls.place_bank(index, bank)
        assert len(grid.releases) <= RELEASES
        for index, release in enumerate(grid.releases):
            number |= cls.place_release(index, release)
        return number.to_bytes(cls.WIDTH // 8, "little")

    def grid(self) -> Grid:
        """What the descriptor says."""
        get = self.raw
        return Grid(
            program=get("program_address") << self.PROGRAM_SHIFT,
            code_bytes=get("program_prefetch_size") << _PREFETCH_SHIFT,
            groups=(get("grid_width"), get("grid_height"), get("grid_depth")),
            lanes=(
                get("cta_thread_dimension0"),
                get("cta_thread_dimension1"),
                get("cta_thread_dimension2"),
            ),
            registers=get("register_count"),
            barriers=get("barrier_count"),
            shared_bytes=get("shared_memory_size") << self.SHARED_SHIFT,
            shared_configs=(
                _config_kib(get("min_sm_config_shared_mem_size")),
                _config_kib(get("target_sm_config_shared_mem_size")),
                _config_kib(get("max_sm_config_shared_mem_size")),
            ),
            local_bytes=get("shader_local_memory_high_size") << self.LOCAL_SHIFT,
            sass_version=get("sass_version"),
            banks={k: bank for k in range(BANKS) if (bank := self.bank(k)) is not None},
            releases=tuple(
                release for k in range(RELEASES) if (release := self.release(k)) is not None
            ),
            dependent=(
                get("dependent_qmd0_pointer") << POINTER_SHIFT
                if get("dependent_qmd0_enable")
                else None
            ),
            virtual_resources=(
                get("virtual_resource_count") if "virtual_resource_count" in self.FIELDS else 0
            ),
        )

    def raw(self, field: str) -> int:
        """A field's number, whatever its kind."""
        return self.FIELDS[field].extract(self)

    def bank(self, index: int) -> Bank | None:
        """A constant bank, where it is valid."""
        raise NotImplementedError

    def release(self, index: int) -> Release | None:
        """A semaphore, where it is enabled."""
        raise NotImplementedError

    @classmethod
    def place_bank(cls, index: int, bank: Bank) -> int:
        raise NotImplementedError

    @classmethod
    def place_release(cls, index: int, release: Release) -> int:
        raise NotImplementedError


def _shared_fields(kind: type[Qmd], grid: Grid) -> dict[str, int]:
    """The fields that every version has, by name; those it lacks are left out."""
    least, wanted, most = grid.shared_configs
    fields: dict[str, int] = {
        "qmd_major_version": kind.MAJOR,
        "qmd_type": QmdType.GRID_CTA,
        "qmd_group_id": GROUP,
        "sm_global_caching_enable": True,
        "sass_version": grid.sass_version,
        "api_visible_call_limit": True,
        "sampler_index": True,
        "cwd_membar_type": MembarType.L1_SYSMEMBAR,
        "invalidate_texture_header_cache": True,
        "invalidate_texture_sampler_cache": True,
        "invalidate_texture_data_cache": True,
        "invalidate_shader_data_cache": True,
        "grid_width": grid.groups[0],
        "grid_height": grid.groups[1],
        "grid_depth": grid.groups[2],
        "cta_thread_dimension0": grid.lanes[0],
        "cta_thread_dimension1": grid.lanes[1],
        "cta_thread_dimension2": grid.lanes[2],
        "register_count": grid.registers,
        "barrier_count": grid.barriers,
        "program_address": _exactly(grid.program, kind.PROGRAM_SHIFT),
        "program_prefetch_addr_shifted": grid.program >> _PREFETCH_SHIFT,
        "program_prefetch_size": min(grid.code_bytes >> _PREFETCH_SHIFT, MOST_PREFETCH),
        "shared_memory_size": _exactly(grid.shared_bytes, kind.SHARED_SHIFT),
        "min_sm_config_shared_mem_size": _config_code(least),
        "target_sm_config_shared_mem_size": _config_code(wanted),
        "max_sm_config_shared_mem_size": _config_code(most),
        "shader_local_memory_high_size": _exactly(grid.local_bytes, kind.LOCAL_SHIFT),
        "virtual_resource_count": grid.virtual_resources,
    }
    if grid.dependent is not None:
        fields |= {
            "dependent_qmd0_enable": True,
            "dependent_qmd0_action": DependentAction.SCHEDULE,
            "dependent_qmd0_prefetch": True,
            "dependent_qmd0_pointer": _exactly(grid.dependent, POINTER_SHIFT),
        }
    return {name: value for name, value in fields.items() if name in kind.FIELDS}


def _exactly(value: int, shift: int) -> int:
    assert value & ((1 << shift) - 1) == 0, hex(value)
    return value >> shift


def _config_code(kib: int) -> int:
    return kib // 4 + 1


def _config_kib(code: int) -> int:
    return 4 * (code - 1)


class Qmd3(Qmd):
    """Version 3.0: Ampere and Ada."""

    WIDTH = 2048
    MAJOR = 3
    BANKS_AT: ClassVar[int] = 1024
    RELEASES_AT: ClassVar[int] = 768
    qmd_group_id = bits(133, 128)
    sm_global_caching_enable = flag(134)
    is_queue = flag(136)
    require_scheduling_pcas = flag(140)
    dependence_counter = bits(157, 142)
    invalidate_texture_header_cache = flag(186)
    invalidate_texture_sampler_cache = flag(187)
    invalidate_texture_data_cache = flag(188)
    invalidate_shader_data_cache = flag(189)
    invalidate_instruction_cache = flag(190)
    invalidate_shader_constant_cache = flag(191)
    cwd_membar_type = bits(369, 368, kind=MembarType)
    api_visible_call_limit = flag(378, "none")
    sampler_index = flag(382, "via the header's index")
    grid_width = bits(415, 384)
    grid_height = bits(431, 416)
    grid_depth = bits(463, 448)
    dependent_qmd0_pointer = bits(511, 480)
    dependent_qmd0_enable = flag(512)
    dependent_qmd0_action = bits(515, 513, kind=DependentAction)
    dependent_qmd0_prefetch = flag(516)
    shared_memory_size = bits(561, 544)
    min_sm_config_shared_mem_size = bits(567, 562)
    max_sm_config_shared_mem_size = bits(574, 569)
    qmd_minor_version = bits(579, 576)
    qmd_major_version = bits(583, 580)
    cta_thread_dimension0 = bits(607, 592)
    cta_thread_dimension1 = bits(623, 608)
    cta_thread_dimension2 = bits(639, 624)
    constant_buffer_valid = bits(647, 640, "a bit for each")
    register_count = bits(656, 648)
    target_sm_config_shared_mem_size = bits(662, 657)
    shader_local_memory_low_size = bits(759, 736)
    barrier_count = bits(767, 763)
    releases = bits(1023, 768, "two of Release3")
    constant_buffers = bits(1535, 1024, "eight of Bank3")
    program_address = bits(1584, 1536)
    shader_local_memory_high_size = bits(1623, 1600)
    program_prefetch_addr_shifted = split((1640, 1632), (287, 256), doc="address >> 8")
    program_prefetch_size = bits(1649, 1641)
    program_prefetch_type = bits(1651, 1650)
    sass_version = bits(1663, 1656)

    def bank(self, index: int) -> Bank | None:
        if not self.constant_buffer_valid >> index & 1:
            return None
        word = Bank3(_part(self, self.BANKS_AT + 64 * index, 64))
        return Bank(word.addr, word.size_shifted4 << _BANK_SIZE_SHIFT, word.invalidate)

    def release(self, index: int) -> Release | None:
        word = Release3(_part(self, self.RELEASES_AT + 128 * index, 128))
        if not word.enable:
            return None
        return Release(word.address, word.payload, word.structure_size, word.payload64b)

    @classmethod
    def place_bank(cls, index: int, bank: Bank) -> int:
        word = Bank3(addr=bank.address, size_shifted4=_bank_units(bank), invalidate=bank.invalidate)
        valid = cls.constant_buffer_valid.place(1 << index)
        return valid | int(word) << cls.BANKS_AT + 64 * index

    @classmethod
    def place_release(cls, index: int, release: Release) -> int:
        word = Release3(
            address=release.address,
            enable=True,
            membar_type=True,
            structure_size=release.size,
            payload64b=release.is_wide,
            payload=release.payload,
        )
        return int(word) << cls.RELEASES_AT + 128 * index


class _Wide(Qmd):
    """What versions 4 and 5 do alike, at places of their own."""

    WIDTH = 3072
    BANK_SHIFT = 6
    BANKS_AT: ClassVar[int]
    BANK_FLAGS_AT: ClassVar[int]
    RELEASES_AT: ClassVar[tuple[int, int]]
    RELEASE_FLAGS_AT: ClassVar[int]

    def bank(self, index: int) -> Bank | None:
        flags = BankFlags4(_part(self, self.BANK_FLAGS_AT + 4 * index, 4))
        if not flags.valid:
            return None
        word = Bank4(_part(self, self.BANKS_AT + 64 * index, 64))
        address = word.addr_shifted6 << self.BANK_SHIFT
        return Bank(address, word.size_shifted4 << _BANK_SIZE_SHIFT, flags.invalidate)

    def release(self, index: int) -> Release | None:
        flags = ReleaseFlags4(_part(self, self.RELEASE_FLAGS_AT + 16 * index, 16))
        if not flags.enable:
            return None
        word = Release4(_part(self, self.RELEASES_AT[index], 128))
        return Release(word.addr, word.payload, flags.structure_size, flags.payload64b)

    @classmethod
    def place_bank(cls, index: int, bank: Bank) -> int:
        word = Bank4(
            addr_shifted6=_exactly(bank.address, cls.BANK_SHIFT), size_shifted4=_bank_units(bank)
        )
        flags = BankFlags4(valid=True, invalidate=bank.invalidate)
        return int(word) << cls.BANKS_AT + 64 * index | int(flags) << cls.BANK_FLAGS_AT + 4 * index

    @classmethod
    def place_release(cls, index: int, release: Release) -> int:
        word = Release4(addr=release.address, payload=release.payload)
        flags = ReleaseFlags4(
            enable=True, structure_size=release.size, membar_type=True, payload64b=release.is_wide
        )
        placed = int(flags) << cls.RELEASE_FLAGS_AT + 16 * index
        return placed | int(word) << cls.RELEASES_AT[index]


class Qmd4(_Wide):
    """Version 4.0: Hopper."""

    WIDTH = 3072
    MAJOR = 4
    BANKS_AT = 1536
    BANK_FLAGS_AT = 416
    RELEASES_AT = (640, 768)
    RELEASE_FLAGS_AT = 320
    dependence_counter = bits(15, 0)
    qmd_group_id = bits(21, 16)
    qmd_type = bits(25, 23, kind=QmdType)
    require_scheduling_pcas = flag(30)
    release_flags = bits(367, 320, "three of ReleaseFlags4")
    dependent_qmd0_enable = flag(368)
    dependent_qmd0_action = bits(371, 369, kind=DependentAction)
    dependent_qmd0_prefetch = flag(372)
    constant_buffer_flags = bits(447, 416, "eight of BankFlags4")
    dependent_qmd0_pointer = bits(479, 448)
    shader_local_memory_low_size = bits(535, 512)
    sass_version = bits(543, 536)
    shader_local_memory_high_size = bits(567, 544)
    api_visible_call_limit = flag(568, "none")
    sampler_index = flag(569, "via the header's index")
    qmd_minor_version = bits(579, 576)
    qmd_major_version = bits(583, 580)
    shared_memory_size = bits(601, 584)
    invalidate_texture_header_cache = flag(602)
    invalidate_texture_sampler_cache = flag(603)
    invalidate_texture_data_cache = flag(604)
    invalidate_shader_data_cache = flag(605)
    invalidate_instruction_cache = flag(606)
    invalidate_shader_constant_cache = flag(607)
    min_sm_config_shared_mem_size = bits(613, 608)
    max_sm_config_shared_mem_size = bits(619, 614)
    target_sm_config_shared_mem_size = bits(625, 620)
    release_semaphore0 = bits(767, 640, "Release4")
    release_semaphore1 = bits(895, 768, "Release4")
    grid_width = bits(1055, 1024)
    grid_height = bits(1071, 1056)
    grid_depth = bits(1103, 1088)
    cwd_membar_type = bits(1137, 1136, kind=MembarType)
    cta_thread_dimension0 = bits(1167, 1152)
    cta_thread_dimension1 = bits(1183, 1168)
    cta_thread_dimension2 = bits(1199, 1184)
    register_count = bits(1208, 1200)
    barrier_count = bits(1215, 1211)
    program_address = bits(1272, 1216)
    program_prefetch_addr_shifted = bits(1392, 1344, "address >> 8")
    program_prefetch_size = bits(1401, 1393)
    program_prefetch_type = bits(1403, 1402)
    constant_buffers = bits(2047, 1536, "eight of Bank4")


class Qmd5(_Wide):
    """Version 5.0: Blackwell."""

    WIDTH = 3072
    MAJOR = 5
    PROGRAM_SHIFT = 4
    SHARED_SHIFT = 7
    LOCAL_SHIFT = 4
    BANKS_AT = 1344
    BANK_FLAGS_AT = 1856
    RELEASES_AT = (480, 768)
    RELEASE_FLAGS_AT = 288
    dependence_counter = bits(143, 128)
    qmd_group_id = bits(149, 144)
    qmd_type = bits(153, 151, kind=QmdType)
    require_scheduling_pcas = flag(158)
    release_flags = bits(335, 288, "three of ReleaseFlags4")
    dependent_qmd0_enable = flag(336)
    dependent_qmd0_action = bits(339, 337, kind=DependentAction)
    dependent_qmd0_prefetch = flag(340)
    dependent_qmd0_pointer = bits(415, 384)
    sass_version = bits(455, 448)
    api_visible_call_limit = flag(456, "none")
    sampler_index = flag(457, "via the header's index")
    qmd_minor_version = bits(467, 464)
    qmd_major_version = bits(471, 468)
    invalidate_texture_header_cache = flag(472)
    invalidate_texture_sampler_cache = flag(473)
    invalidate_texture_data_cache = flag(474)
    invalidate_shader_data_cache = flag(475)
    invalidate_instruction_cache = flag(476)
    invalidate_shader_constant_cache = flag(477)
    release_semaphore0 = bits(607, 480, "Release4")
    cwd_membar_type = bits(625, 624, kind=MembarType)
    release_semaphore1 = bits(895, 768, "Release4")
    program_address = bits(1076, 1024, "address >> 4")
    program_prefetch_size = bits(1085, 1077)
    program_prefetch_type = bits(1087, 1086)
    cta_thread_dimension0 = bits(1103, 1088)
    cta_thread_dimension1 = bits(1119, 1104)
    cta_thread_dimension2 = bits(1127, 1120)
    register_count = bits(1136, 1128)
    barrier_count = bits(1141, 1137)
    shared_memory_size = bits(1162, 1152, "bytes >> 7")
    min_sm_config_shared_mem_size = bits(1168, 1163)
    max_sm_config_shared_mem_size = bits(1174, 1169)
    target_sm_config_shared_mem_size = bits(1180, 1175)
    shader_local_memory_low_size = bits(1199, 1184, "bytes >> 4")
    shader_local_memory_high_size = bits(1215, 1200, "bytes >> 4")
    virtual_resource_count = bits(1223, 1216)
    grid_width = bits(1279, 1248)
    grid_height = bits(1295, 1280)
    grid_depth = bits(1327, 1312)
    constant_buffers = bits(1855, 1344, "eight of Bank4")
    constant_buffer_flags = bits(1887, 1856, "eight of BankFlags4")
    program_prefetch_addr_shifted = bits(1936, 1888, "address >> 8")


def _part(word: int, low: int, width: int) -> int:
    return int(word) >> low & ((1 << width) - 1)


def _bank_units(bank: Bank) -> int:
    return -(-bank.size >> _BANK_SIZE_SHIFT)


def layout(compute_class: int) -> type[Qmd]:
    """The layout that a compute class takes.

    A class between two known ones takes the older one's.
    """
    if compute_class >= ComputeClass.BLACKWELL_A:
        return Qmd5
    return Qmd4 if compute_class >= ComputeClass.HOPPER_A else Qmd3
