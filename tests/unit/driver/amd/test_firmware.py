"""Firmware files come apart into what the PSP is to load; real ones too, where they can be had."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.softcard.amd_cards import boot, check_it_copies, make
from tests.softcard.debian import unpack

from exosuit.advise.firmware import StoredFirmware
from exosuit.driver.amd.firmware import file_names, load_firmware
from exosuit.errors import CorruptFile, HelperMissing
from exosuit.silicon.amd.chips import CHIPS, Chip
from exosuit.silicon.amd.discovery import Discovery, HardwareId, read_discovery
from exosuit.silicon.amd.firmware import PieceType
from exosuit.silicon.amd.psp import BootloaderCommand
from exosuit.softcard.amd.discovery import build_discovery
from exosuit.softcard.amd.firmware import MARK, SyntheticFirmware


def discovery_of(chip: Chip) -> Discovery:
    return read_discovery(build_discovery(chip))


BY_CHIP = pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.target)
GFX11 = [
    "SMU", "SDMA_TH1", "SDMA_TH0", "RS64_MEC", "RS64_MEC_P0_STACK", "IMU_I", "IMU_D", "RLC_IRAM",
    "RLC_DRAM_BOOT", "RLC_P", "RLC_V", "RLC_G",
]  # fmt: skip
GFX12 = [
    "SMU", "SDMA_TH0", "RS64_PFP", "RS64_PFP_P0_STACK", "RS64_ME", "RS64_ME_P0_STACK", "RS64_MEC",
    "RS64_MEC_P0_STACK", "IMU_I", "IMU_D", "RLC_IRAM", "RLC_DRAM_BOOT", "RLC_G",
]  # fmt: skip


def check_complete(firmware, generation: int) -> None:
    """The order that a hardware-proven driver was seen to load in (amd.md 5.4)."""
    kinds = [kind.name for kind, _ in firmware.pieces]
    assert kinds == (GFX11 if generation == 11 else GFX12)
    commands = [command for command, _ in firmware.bootloader]
    assert commands[:2] == [BootloaderCommand.LOAD_KEY_DATABASE, BootloaderCommand.LOAD_SPL]
    assert commands[-1] is BootloaderCommand.LOAD_SOSDRV
    assert firmware.toc
    assert firmware.engines[PieceType.RS64_MEC].start == 0x0007_0000_0000_3000
    assert all(0 < len(data) < 1 << 20 for _, data in [*firmware.pieces, *firmware.bootloader])


@BY_CHIP
def test_synthetic_files_are_complete(chip: Chip):
    discovery = discovery_of(chip)
    names = file_names(discovery, chip.device_id, 0xC8)
    psp = discovery.version(HardwareId.MP0)
    firmware = load_firmware(SyntheticFirmware(), names, psp)
    check_complete(firmware, discovery.version(HardwareId.GC)[0])
    assert all(MARK in data for _, data in firmware.pieces if len(data) > 2 * len(MARK))


def test_names():
    chip = CHIPS[0]
    names = file_names(discovery_of(chip), chip.device_id, 0xC8)
    assert sorted(names.values()) == [
        "amdgpu/gc_11_0_0_imu.bin", "amdgpu/gc_11_0_0_mec.bin", "amdgpu/gc_11_0_0_rlc.bin",
        "amdgpu/psp_13_0_0_sos.bin", "amdgpu/sdma_6_0_0.bin", "amdgpu/smu_13_0_0.bin",
    ]  # fmt: skip
    kicker = file_names(discovery_of(chip), 0x744B, 0x00)
    assert kicker["sos"] == "amdgpu/psp_13_0_0_sos_kicker.bin"
    assert kicker["mec"] == "amdgpu/gc_11_0_0_mec.bin"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_loads(data):
    chip = data.draw(st.sampled_from([CHIPS[0], CHIPS[-1]]))
    discovery = discovery_of(chip)
    names = file_names(discovery, chip.device_id, 0xC8)
    victim = data.draw(st.sampled_from(sorted(names.values())))

    class Source(SyntheticFirmware):
        def read(self, path: str) -> bytes:
            found = super().read(path)
            if path != victim:
                return found
            changed = bytearray(found)
            for _ in range(data.draw(st.integers(1, 3))):
                changed[data.draw(st.integers(4, 0xD0))] = data.draw(st.integers(0, 255))
            return bytes(changed[: data.draw(st.sampled_from([len(changed), 40, 0x90]))])

    # Never another exception, whatever the file says.
    with contextlib.suppress(CorruptFile):
        load_firmware(Source(), names, discovery.version(HardwareId.MP0))


# Where files come from ------------------------------------------------------------------------


def test_a_missing_file_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(HelperMissing, match=r"psp_13_0_0_sos\.bin") as caught:
        StoredFirmware(tmp_path).read("amdgpu/psp_13_0_0_sos.bin")
    assert "exosuit setup" in caught.value.next


def test_a_file_with_another_hash_is_not_used(tmp_path: Path):
    (tmp_path / "amdgpu").mkdir()
    (tmp_path / "amdgpu/psp_13_0_0_sos.bin").write_bytes(b"other")
    with pytest.raises(CorruptFile, match="not the one that was tried"):
        StoredFirmware(tmp_path).read("amdgpu/psp_13_0_0_sos.bin")


def test_a_file_that_nobody_knows(tmp_path: Path):
    with pytest.raises(HelperMissing, match="does not know"):
        StoredFirmware(tmp_path).read("amdgpu/psp_99_0_0_sos.bin")


# The vendor's own -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> Path:
    """Debian's firmware-amd-graphics, unpacked; skipped where it cannot be had."""
    return unpack("firmware-amd-graphics", "stable", tmp_path_factory.mktemp("firmware"))


class Folder:
    """Firmware files of a folder, plain or compressed, whatever their hashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        import lzma

        plain = self._folder / path
        if plain.exists():
            return plain.read_bytes()
        packed = plain.with_name(plain.name + ".xz")
        if packed.exists():
            return lzma.decompress(packed.read_bytes())
        pytest.skip(f"this release has no {path}")


@pytest.mark.slow
@BY_CHIP
def test_real_files_are_taken_apart_and_load(chip: Chip, real: Path):
    discovery = discovery_of(chip)
    names = file_names(discovery, chip.device_id, 0)
    firmware = load_firmware(Folder(real), names, discovery.version(HardwareId.MP0))
    check_complete(firmware, discovery.version(HardwareId.GC)[0])
    card = make(f"{chip.target},vram=256M,strict")
    device = boot(card, firmware=Folder(real))
    check_it_copies(device)
    device.close()
    assert card.notes == []
