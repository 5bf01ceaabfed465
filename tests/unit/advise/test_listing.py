from __future__ import annotations

import pytest
from tests.unit.advise.macos_situations import load, names

from exosuit.advise import listing
from exosuit.advise.listing import card_rows, rows_of
from exosuit.link.find import Found
from exosuit.link.lock import Owner

KEYS = {
    "device", "name", "vendor_id", "device_id", "class_code", "family", "memory_bytes", "driver",
    "connection", "verdict", "reason", "next", "known",
}  # fmt: skip


def card(vendor: int, device: int, kind: int = 0x030000, **facts: object) -> Found:
    return Found(name="0000:05:00.0", vendor=vendor, device=device, class_code=kind, **facts)  # type: ignore[arg-type]


def row(found: Found, on_mac: bool = False, owner: Owner | None = None) -> dict[str, object]:
    device = "tinygpu" if on_mac else f"pci:{found.name}"
    (only,) = card_rows([found], on_mac, {device: owner} if owner else {})
    assert set(only) == KEYS
    if only["verdict"] != "ready":
        assert only["reason"]
        assert only["next"]
    return only


def test_without_a_driver_a_card_is_untested_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "known_architectures", lambda way: {})
    found = row(card(0x10DE, 0x2684))
    assert (found["verdict"], found["known"]) == ("untested", None)
    assert "no driver" in str(found["reason"])
    assert found["memory_bytes"] == 24 << 30


def test_with_a_driver_it_is_ready_and_says_how_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "known_architectures", lambda way: {"Ada": "simulated"})
    found = row(card(0x10DE, 0x2684))
    assert (found["verdict"], found["known"], found["reason"]) == ("ready", "simulated", None)


def test_every_obstacle_has_its_verdict() -> None:
    assert row(card(0x10DE, 0x1B80))["verdict"] == "unsupported"
    assert row(card(0x8086, 0xE20B))["verdict"] == "unsupported"
    assert row(card(0x1002, 0x744C, driver="amdgpu"))["verdict"] == "blocked"
    assert row(card(0x1002, 0x744C), on_mac=True)["verdict"] == "blocked"
    assert row(card(0x10DE, 0x25B6, 0x030200, driver=""), on_mac=True)["verdict"] == "unsupported"
    owner = Owner(812, "exosuit serve", 1.0)
    held = row(card(0x1002, 0x744C, driver="tinygpu"), on_mac=True, owner=owner)
    assert held["verdict"] == "blocked"
    assert "812" in str(held["reason"])


@pytest.mark.parametrize("device", [0x20B5, 0x2331, 0x2901, 0x3182, 0x2E12])
def test_data_centre_chips_are_reached_through_their_own_driver_only(
    device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"Ampere": "simulated", "Hopper": "simulated", "Blackwell": "simulated"}
    monkeypatch.setattr(listing, "known_architectures", lambda way: known)
    alone = row(card(0x10DE, device, 0x030200))
    assert (alone["verdict"], alone["next"]) == (
        "blocked", "sudo modprobe nvidia   (once it is installed)",
    )  # fmt: skip
    assert "only NVIDIA's own driver starts" in str(alone["reason"])
    (held,) = card_rows([card(0x10DE, device, 0x030200, driver="nvidia")], False, {})
    assert (held["device"], held["verdict"], held["known"]) == ("nvidia:0", "ready", "simulated")


def test_each_way_has_marks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {"boot": {"Ada": "cross-checked"}, "nvidia": {}}
    monkeypatch.setattr(listing, "known_architectures", lambda way: marks[way])
    assert row(card(0x10DE, 0x2684))["known"] == "cross-checked"
    (held,) = card_rows([card(0x10DE, 0x2684, driver="nvidia")], False, {})
    assert "through NVIDIA's kernel driver" in held["reason"]


def test_an_unlisted_id_is_never_invisible() -> None:
    found = row(card(0x10DE, 0x26FE))
    assert found["verdict"] == "untested"
    assert "26fe" in str(found["name"])


def test_devices_are_named_by_how_they_are_reached() -> None:
    rows = card_rows(
        [card(0x10DE, 0x2684, driver="nvidia"), card(0x10DE, 0x2204, driver="nvidia")], False, {}
    )
    assert [found["device"] for found in rows] == ["nvidia:0", "nvidia:1"]
    assert row(card(0x1002, 0x744C))["device"] == "pci:0000:05:00.0"
    assert row(card(0x1002, 0x744C, driver="tinygpu"), on_mac=True)["device"] == "tinygpu"


def test_an_id_of_several_cards_claims_no_memory() -> None:
    assert row(card(0x1002, 0x744C))["memory_bytes"] is None
    tunnelled = row(card(0x10DE, 0x2684, tunnelled=True, link="8 GT/s x4"))
    assert tunnelled["connection"] == "Thunderbolt or USB4, 8 GT/s x4"


BLACKWELL = {"panic-pair", "nvidia-fsp-silent", "nvidia-gsp-timeout"}
EMPTY = {"enclosure-without-card", "nothing-plugged", "box-without-power", "no-tunnel"}


@pytest.mark.parametrize("name", names())
def test_the_cards_of_recorded_situations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        listing, "known_architectures", lambda way: {"Ada": "hardware", "RDNA3": "simulated"}
    )
    recorded = load(name)
    rows = rows_of(recorded.situation)
    if name in EMPTY:
        assert rows == []
        return
    (only,) = rows
    assert only["device"] == "tinygpu"
    wanted = {"controller-3d": "unsupported", "old-generation": "unsupported"}.get(name)
    if wanted is None and name in BLACKWELL:
        wanted = "untested"  # its architecture has no mark in this test
    if wanted is None:
        wanted = "ready" if only["driver"] else "blocked"
    assert only["verdict"] == wanted
    if recorded.layer in ("extension", "driver"):
        assert (only["verdict"], only["next"]) == ("blocked", "exosuit doctor")
