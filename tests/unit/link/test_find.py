"""Functions are found from what systems say, recorded or made up, whatever it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.errors import HelperMissing
from exosuit.link import find_macos
from exosuit.link.find import Found, bridges_above, find_cards, find_linux
from exosuit.link.find_macos import from_profiler, from_properties

GPU = "0000:05:00.0"


def sysfs(root: Path, name: str = GPU, **files: str) -> Path:
    """A function's folder as Linux lays it out."""
    folder = root / name
    folder.mkdir(parents=True)
    content = {
        "vendor": "0x1002", "device": "0x744c", "class": "0x030000", "revision": "0xc8",
        "subsystem_vendor": "0x1da2", "subsystem_device": "0xe471",
        "current_link_speed": "8.0 GT/s PCIe", "current_link_width": "4",
        "resource": "0x0000006000000000 0x000000600fffffff 0x000000000014220c\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x0000006010000000 0x00000060101fffff 0x000000000014220c\n",
        "config": "", "enable": "0", **files,
    }  # fmt: skip
    for file, text in content.items():
        (folder / file).write_text(text)
    return folder


def test_a_card_on_linux(tmp_path: Path):
    folder = sysfs(tmp_path)
    (tmp_path / "drivers" / "amdgpu").mkdir(parents=True)
    (folder / "driver").symlink_to(tmp_path / "drivers" / "amdgpu")
    sysfs(tmp_path, "0000:05:00.1", **{"class": "0x040300", "device": "0xab30"})
    (card,) = find_linux(tmp_path)
    assert card == Found(
        name=GPU,
        vendor=0x1002,
        device=0x744C,
        class_code=0x030000,
        subsystem=(0x1DA2, 0xE471),
        revision=0xC8,
        bars={0: (0x60_0000_0000, 256 << 20), 2: (0x60_1000_0000, 2 << 20)},
        driver="amdgpu",
        link="8 GT/s x4",
        tunnelled=None,
        facts=card.facts,
    )
    assert card.facts["current_link_speed"] == "8.0 GT/s PCIe"


def test_3d_controllers_and_accelerators_are_found(tmp_path: Path):
    sysfs(tmp_path, "0000:01:00.0", **{"class": "0x030200", "vendor": "0x10de"})
    sysfs(tmp_path, "0000:02:00.0", **{"class": "0x120000"})
    sysfs(tmp_path, "0000:03:00.0", **{"class": "0x020000"})
    assert [card.name for card in find_linux(tmp_path)] == ["0000:01:00.0", "0000:02:00.0"]


def test_a_removable_bridge_above_means_a_tunnel(tmp_path: Path):
    bridge = sysfs(tmp_path / "pci0000:00", "0000:00:07.0", **{"class": "0x060400"})
    (bridge / "removable").write_text("removable")
    sysfs(bridge)
    devices = tmp_path / "devices"
    devices.mkdir()
    (devices / GPU).symlink_to(bridge / GPU)
    assert find_linux(devices)[0].tunnelled is True


def test_broken_files_and_no_sysfs(tmp_path: Path):
    sysfs(tmp_path, resource="nonsense\n\n1 2", vendor="x", current_link_speed="Unknown")
    (card,) = find_linux(tmp_path)
    assert (card.vendor, card.bars, card.link) == (0, {}, "")
    assert find_linux(tmp_path / "nowhere") == []


def test_this_machine_can_be_asked():
    assert isinstance(find_cards(), list)


def test_registry_properties_are_little_endian():
    card = from_properties(
        "IOService:/usb4/pci@0",
        {
            "vendor-id": bytes.fromhex("de100000"),
            "device-id": bytes.fromhex("21230000"),
            "class-code": bytes.fromhex("00020300"),
            "IOPCITunnelled": b"\x01",
        },
        "tinygpu",
    )
    assert (card.vendor, card.device, card.class_code) == (0x10DE, 0x2321, 0x030200)
    assert (card.tunnelled, card.driver) == (True, "tinygpu")


def test_where_iokit_is_not_the_profiler_is_asked(monkeypatch: pytest.MonkeyPatch):
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(find_macos.ctypes.util, "find_library", nothing)
    monkeypatch.setattr(find_macos, "run_profiler", lambda: json.dumps(PROFILER))
    assert [card.device for card in find_macos.find_macos()] == [0x2684, 0x744C]


def test_a_profiler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    def hang(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("system_profiler", 15)

    monkeypatch.setattr(find_macos.subprocess, "run", hang)
    with pytest.raises(HelperMissing, match="does not say which PCI devices"):
        find_macos.run_profiler()


PROFILER = {
    "SPPCIDataType": [
        {
            "_name": "pci10de,2684",
            "sppci_device_type": "sppci_vga",
            "sppci_slot_name": "Thunderbolt@67,0,0",
            "sppci_vendor-id": "0x10de",
            "sppci_device-id": "0x2684",
            "sppci_link-width": "x4",
            "sppci_link-speed": "16.0 GT/s",
            "sppci_tunnel-compatible": "Yes",
        },
        {
            "_name": "bridge",
            "_items": [
                {
                    "vendor_id": "0x1002",
                    "device_id": "0x744c",
                    "tunnel_compatible": "affirmative_string",
                },
                {"sppci_vendor-id": "0x10de", "sppci_device-id": "0x22ba",
                 "sppci_device_type": "Audio Device"},
            ],
        },
    ]
}  # fmt: skip


def test_the_profiler_in_either_spelling():
    nvidia, amd = from_profiler(json.dumps(PROFILER))
    assert (nvidia.name, nvidia.device, nvidia.link) == ("Thunderbolt@67,0,0", 0x2684, "16 GT/s x4")
    assert (amd.vendor, amd.device, amd.tunnelled) == (0x1002, 0x744C, True)


@given(st.text(max_size=200))
def test_any_text_is_no_card(text: str):
    assert from_profiler(text) == []


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=8), st.sampled_from(["0x10de", "0x2684"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["_items", "sppci_vendor-id", "sppci_device-id", "x"]), inner
        ),
    ),
)


@given(JSON)
def test_any_tree_is_walked(tree: object):
    assert all(isinstance(card, Found) for card in from_profiler(json.dumps(tree)))


def test_a_deep_tree_is_walked():
    assert from_profiler("[" * 100_000) == []
    assert from_profiler("[" * 900 + "]" * 900) == []


def test_bridges_above_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Linux tells which are above; macOS which there are."""
    monkeypatch.setattr(sys, "platform", "linux")
    root = tmp_path / "real" / "pci0000:00"
    card = root / "0000:00:1c.0" / "0000:03:00.0" / "0000:05:00.0"
    card.mkdir(parents=True)
    for folder, ids in (
        (card.parent.parent, ("0x8086", "0x7ae8", "0x060400")),
        (card.parent, ("0x8086", "0x5786", "0x060400")),
        (card, ("0x10de", "0x2684", "0x030000")),
    ):
        for name, text in zip(("vendor", "device", "class"), ids, strict=True):
            (folder / name).write_text(text + "\n")
    devices = tmp_path / "devices"
    devices.mkdir()
    (devices / card.name).symlink_to(card)
    assert bridges_above(card.name, devices) == [(0x8086, 0x5786), (0x8086, 0x7AE8)]
    assert bridges_above("tinygpu", devices) == bridges_above("", devices) == []

    def services():
        for ids in ((0x8086, 0x5786, 0x060400), (0x10DE, 0x2684, 0x030000)):
            names = ("vendor-id", "device-id", "class-code")
            values = (value.to_bytes(4, "little") for value in ids)
            yield "path", dict(zip(names, values, strict=True)), ""

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(find_macos, "registry_services", services)
    assert bridges_above("tinygpu") == [(0x8086, 0x5786)]
