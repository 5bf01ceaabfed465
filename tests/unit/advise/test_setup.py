from __future__ import annotations

import hashlib
import lzma
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.unit.advise.macos_situations import load

from exosuit.advise import manifest
from exosuit.advise.doctor import diagnose
from exosuit.advise.manifest import App, Item
from exosuit.advise.setup import steps
from exosuit.cli.setup import bring_firmware, install_app
from exosuit.errors import CorruptFile, HelperMissing
from exosuit.settings import Settings
from exosuit.silicon.nvidia.chips import CHIPS, GSP_IMAGE, VENDOR_ID, Start
from exosuit.silicon.pci_ids import identify, listed

APP = App("https://example.org/TinyGPU.zip", "", "9YG3G8543N")


def item(data: bytes, path: str = "amdgpu/x.bin") -> Item:
    digest = hashlib.sha256(data).hexdigest()
    return Item(path, digest, ("Navi 31",), f"http://127.0.0.1:9/{path}")


def test_the_manifest_is_whole() -> None:
    files = manifest.firmware()
    assert len(files) > 40
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.url.startswith("https://")
        assert ".." not in file.path
    assert len({file.path for file in files}) == len(files)
    assert manifest.app().team == "9YG3G8543N"


def test_every_supported_card_has_firmware() -> None:
    for vendor, device in listed():
        identity = identify(vendor, device)
        if identity.verdict == "supported":
            assert manifest.needed([identity]), identity
    needed = manifest.needed([identify(0x1002, 0x747E)])
    assert "amdgpu/psp_13_0_10_sos.bin" in {file.path for file in needed}


def test_nvidia_files_are_those_that_its_boot_asks_for() -> None:
    """By chip: the description of the silicon says which files a boot reads."""
    cards = [identify(*ids) for ids in listed() if ids[0] == VENDOR_ID]
    tried = 0
    for chip in CHIPS:
        mine = [card for card in cards if card.chip.startswith(chip.name)]
        pinned = {file.path for file in manifest.needed(mine)}
        starter = "fmc" if chip.start is Start.FSP else "booter_load"
        wanted = {GSP_IMAGE, chip.firmware("bootloader"), chip.firmware(starter)}
        assert pinned == (set() if chip.refused or not mine else wanted), chip.name
        tried += bool(mine)
    assert tried > 15


def test_local_files_are_adopted_by_their_hash(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "amdgpu").mkdir(parents=True)
    good, packed, wrong = b"good" * 100, b"packed" * 100, b"wrong"
    (source / "amdgpu/good.bin").write_bytes(good)
    (source / "amdgpu/packed.bin.xz").write_bytes(lzma.compress(packed))
    (source / "amdgpu/wrong.bin").write_bytes(wrong)
    assert manifest.adopt(item(good, "amdgpu/good.bin"), [source], target)
    assert manifest.adopt(item(packed, "amdgpu/packed.bin"), [source], target)
    assert not manifest.adopt(item(b"right", "amdgpu/wrong.bin"), [source], target)
    assert (target / "amdgpu/packed.bin").read_bytes() == packed
    assert not (target / "amdgpu/wrong.bin").exists()
    assert not list(target.rglob("*.part"))


def test_a_changed_file_is_missing_again(tmp_path: Path) -> None:
    wanted = item(b"firmware")
    path = tmp_path / wanted.path
    path.parent.mkdir()
    path.write_bytes(b"firmware")
    assert manifest.missing([wanted], tmp_path) == []
    path.write_bytes(b"tampered")
    assert manifest.missing([wanted], tmp_path) == [wanted]


def test_a_folder_without_the_file_is_an_error_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile) as caught:
        bring_firmware([item(b"x")], tmp_path / "out", tmp_path)
    assert caught.value.fields["path"] == "amdgpu/x.bin"


def test_the_app_is_for_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(HelperMissing, match="on a Mac only"):
        install_app(APP, None, True, settings)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(HelperMissing) as caught:
        install_app(APP, None, False, settings)
    assert "--accept-unpinned" in caught.value.next


def test_steps_say_who_does_what() -> None:
    card = identify(0x10DE, 0x2684)
    wanted = manifest.needed([card])
    pending = diagnose(load("approval-pending").situation)
    todo = steps("macos", pending, [card], wanted, wanted, APP)
    assert [step.who for step in todo] == ["done", "exosuit", "user"]
    assert "LoginItems-Settings" in todo[-1].command
    missing_app = steps("macos", diagnose(load("app-missing").situation), [], [], [], APP)
    assert missing_app[0].action == "app"
    assert "--accept-unpinned" in missing_app[0].command
    assert "no hash" in missing_app[0].why
    healthy = steps("macos", diagnose(load("healthy-nvidia").situation), [card], wanted, [], APP)
    assert {step.who for step in healthy} == {"done"}


def test_files_are_fetched_and_held_to_their_hash(tmp_path: Path) -> None:
    data = b"firmware" * 500
    (tmp_path / "served").mkdir()
    (tmp_path / "served/x.bin").write_bytes(data)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/x.bin"
            good = replace(item(data), url=url)
            bring_firmware([good], tmp_path / "firmware", None)
            with pytest.raises(CorruptFile):
                bring_firmware([replace(item(b"other"), url=url)], tmp_path / "bad", None)
        finally:
            server.shutdown()
            thread.join()
    assert manifest.missing([good], tmp_path / "firmware") == []
    assert not (tmp_path / "bad/amdgpu/x.bin").exists()
