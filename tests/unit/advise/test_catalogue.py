from __future__ import annotations

import pytest

from exosuit.advise.catalogue import (
    boxes,
    cards,
    cards_called,
    find_card,
    find_link,
    find_mac,
    links,
    macs,
)
from exosuit.errors import UsageError
from exosuit.silicon.pci_ids import identify


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4090", "RTX 4090"),
        ("GeForce RTX 4090", "RTX 4090"),
        ("rx-7900-xtx", "RX 7900 XTX"),
        ("7900xt", "RX 7900 XT"),
        ("10de:2684", "RTX 4090"),
        ("a6000", "RTX A6000"),
    ],
)
def test_a_card_is_found_however_it_is_spelled(text: str, name: str) -> None:
    assert find_card(text).name == name


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_card("rtx 4091")
    assert "RTX 4090" in caught.value.fields["near"]
    assert caught.value.exit_status == 2


def test_hosts_and_links_are_found() -> None:
    assert find_mac("Apple M4 Pro").gb_s == 273
    assert find_mac("m3-ultra").gb_s == 819
    assert find_link("tb4").name == "Thunderbolt 4"
    assert find_link("slot").name == "PCIe 4 x16"


def test_names_are_unique() -> None:
    for rows in (cards(), macs(), links(), boxes()):
        names = [name for row in rows for name in (row.name, *row.aliases)]
        assert len(names) == len(set(names))


def test_every_pci_id_names_the_card_that_the_id_table_names() -> None:
    listed = [card for card in cards() if card.pci and card.drivable]
    assert len(listed) > 15
    for card in listed:
        vendor, device = (int(part, 16) for part in card.pci.split(":"))
        identity = identify(vendor, device)
        assert card in cards_called(identity.name), (card.name, identity.name)
        assert identity.architecture == card.architecture


def test_one_id_may_be_several_cards() -> None:
    names = {card.name for card in cards_called("AMD Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M")}
    assert names == {"RX 7900 XT", "RX 7900 XTX", "RX 7900 GRE"}


def test_figures_agree_with_the_articles_where_those_are_right() -> None:
    quoted = {
        "RTX 5090": (32, 1792, 575),
        "RTX 4090": (24, 1008, 450),
        "RTX 3090": (24, 936, 350),
        "RTX 5080": (16, 960, 360),
        "RX 7900 XTX": (24, 960, 355),
        "Arc B580": (12, 456, 190),
    }
    for name, figures in quoted.items():
        card = find_card(name)
        assert (card.memory_gib, card.gb_s, card.power_w) == figures


def test_links_load_15_gb_as_measured() -> None:
    """users.md C2: seconds for 15 GB; the middle of each range."""
    for name, low, high in (("tb4", 5, 6), ("tb5", 2.4, 2.6), ("gen1", 16, 18)):
        assert low <= 15 / find_link(name).gb_s <= high
    for link in links():
        assert link.gb_s < link.wire_gb_s
