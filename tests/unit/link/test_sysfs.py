"""What stands in the way of a Linux card is told in clear words, on a made-up sysfs."""

import errno
from pathlib import Path

import pytest
from tests.unit.link.test_find import GPU, sysfs

from exosuit.errors import CardBusy, HelperMissing, LinkError, LinkLost, PermissionNeeded
from exosuit.link import sysfs as sysfs_link
from exosuit.link.function import Segment
from exosuit.link.lock import CardLock, owner_of
from exosuit.link.open import open_link
from exosuit.link.sysfs import SysfsLink, denied, is_locked_down, physical_pages, refuse_translation
from exosuit.link.vfio import VfioLink
from exosuit.units import BusAddress


def bind(root: Path, folder: Path, driver: str) -> None:
    (root / "drivers" / driver).mkdir(parents=True)
    (folder / "driver").symlink_to(root / "drivers" / driver)


def test_a_function_of_files(tmp_path: Path):
    """Files stand in for the kernel's: the accesses and their places are the same."""
    folder = sysfs(tmp_path)
    (folder / "config").write_bytes(bytes.fromhex("02104c74") + bytes(252))
    (folder / "resource0").write_bytes(bytes(256 << 10))
    (folder / "resource").write_text("0x60000000 0x6003ffff 0x40200\n")
    (folder / "reset").write_text("")
    with SysfsLink.open(GPU, locks=tmp_path / "locks", devices=tmp_path) as link:
        assert (folder / "enable").read_text() == "1"
        assert link.read_config(0, 4) == 0x744C1002
        link.write_config(4, 6, 2)
        assert (folder / "config").read_bytes()[4:6] == b"\x06\0"
        bar = link.bar(0)
        assert (bar.address, bar.size) == (0x6000_0000, 256 << 10)
        bar.write32(8, 0xABCD)
        bar.write(16, b"0123456789")
        assert bar.read(16, 10) == b"0123456789"
        assert (folder / "resource0").read_bytes()[8:12] == b"\xcd\xab\0\0"
        with pytest.raises(LinkError, match="no BAR 3"):
            link.bar(3)
        with pytest.raises(CardBusy):
            SysfsLink.open(GPU, locks=tmp_path / "locks", devices=tmp_path)
        link.reset()
        assert (folder / "reset").read_text() == "1"
        with pytest.raises(LinkError, match="configuration space ends"):
            link.read_config(256, 4)
    with pytest.raises(LinkLost, match="is closed"):
        link.read_config(0, 4)


def test_users_with_other_lock_folders_are_kept_apart(tmp_path: Path):
    sysfs(tmp_path)
    with (
        SysfsLink.open(GPU, locks=tmp_path / "mine", devices=tmp_path),
        pytest.raises(CardBusy, match="another process"),
    ):
        SysfsLink.open(GPU, locks=tmp_path / "yours", devices=tmp_path)
    assert owner_of(f"pci:{GPU}", tmp_path / "yours") is None


def test_closing_stops_the_cards_dma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = sysfs(tmp_path)
    (folder / "config").write_bytes(bytes(256))
    page = [Segment(BusAddress(0x1000), 4096)]
    monkeypatch.setattr(sysfs_link, "physical_pages", lambda view: page)
    with SysfsLink.open(GPU, devices=tmp_path) as link:
        link.write_config(4, 6, 2)
        link.allocate_dma(4096).write32(0, 1)
    assert (folder / "config").read_bytes()[4:6] == b"\x02\0"


def test_no_such_function(tmp_path: Path):
    for opener in (SysfsLink, VfioLink):
        with pytest.raises(LinkError, match="there is no PCI function"):
            opener.open("0000:99:00.0", locks=tmp_path, devices=tmp_path)


def test_a_bound_driver_is_named_and_the_lock_released(tmp_path: Path):
    bind(tmp_path, sysfs(tmp_path / "devices"), "amdgpu")
    for opener in (SysfsLink, VfioLink):
        with pytest.raises(PermissionNeeded, match="belongs to the kernel driver amdgpu") as caught:
            opener.open(GPU, locks=tmp_path / "locks", devices=tmp_path / "devices")
        assert "unbind" in caught.value.next
        assert owner_of(f"pci:{GPU}", tmp_path / "locks") is None


def test_vfio_without_its_driver_or_group(tmp_path: Path):
    folder = sysfs(tmp_path / "devices")
    with pytest.raises(HelperMissing, match="not bound to vfio-pci") as caught:
        VfioLink.open(GPU, locks=tmp_path / "locks", devices=tmp_path / "devices")
    assert "driver_override" in caught.value.next
    bind(tmp_path, folder, "vfio-pci")
    with pytest.raises(HelperMissing, match="in no IOMMU group"):
        open_link(f"pci:{GPU}", locks=tmp_path / "locks", devices=tmp_path / "devices")
    assert owner_of(f"pci:{GPU}", tmp_path / "locks") is None


def test_an_iommu_that_translates(tmp_path: Path):
    group = sysfs(tmp_path) / "iommu_group"
    refuse_translation(tmp_path / GPU)
    group.mkdir()
    (group / "type").write_text("identity\n")
    refuse_translation(tmp_path / GPU)
    (group / "type").write_text("DMA-FQ\n")
    with pytest.raises(LinkError, match=r"translates .* \(domain DMA-FQ\)"):
        refuse_translation(tmp_path / GPU)


def test_lockdown_and_rights_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none [integrity] confidentiality")
    assert is_locked_down(lockdown)
    lockdown.write_text("[none] integrity confidentiality")
    assert not is_locked_down(lockdown)
    assert not is_locked_down(tmp_path / "absent")
    refusal = PermissionError(errno.EPERM, "not permitted")
    monkeypatch.setattr(sysfs_link, "is_locked_down", lambda: True)
    assert "locked down" in denied(tmp_path, refusal).cause
    monkeypatch.setattr(sysfs_link, "is_locked_down", lambda: False)
    assert "root" in denied(tmp_path, refusal).cause
    assert isinstance(denied(tmp_path, OSError(errno.ENODEV, "gone")), LinkLost)


def test_an_unwritable_lock_folder_touches_nothing(tmp_path: Path):
    folder = sysfs(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionNeeded):
        SysfsLink.open(GPU, locks=tmp_path / "file", devices=tmp_path)
    assert (folder / "enable").read_text() == "0"


def test_hidden_physical_addresses(monkeypatch: pytest.MonkeyPatch):
    view, close = sysfs_link.locked_pages(4096, contiguous=False)
    monkeypatch.setattr(sysfs_link, "_FRAME", 0)
    with pytest.raises(PermissionNeeded, match="physical addresses"):
        physical_pages(view)
    view.release()
    close()


def test_the_lock_of_another_program_is_respected(tmp_path: Path):
    sysfs(tmp_path)
    with (
        CardLock.acquire(f"pci:{GPU}", tmp_path / "locks"),
        pytest.raises(CardBusy, match="in use by process"),
    ):
        open_link(f"pci:{GPU}", locks=tmp_path / "locks", devices=tmp_path)
