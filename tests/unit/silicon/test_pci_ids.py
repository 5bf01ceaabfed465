"""Every supported generation is named; what is not listed is untested, never invisible."""

from itertools import pairwise

import pytest

from exosuit.silicon.pci_ids import AMD, INTEL, NVIDIA, families, identify, listed

# What tinygrad 0.14.0 boots over a link, from its device lists: exact AMD ids, NVIDIA pages.
PROVEN_AMD = [0x744C, 0x7480, 0x7550, 0x7551, 0x7590]
PROVEN_NVIDIA_PAGES = [0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x2B, 0x2C, 0x2D, 0x2F]


@pytest.mark.parametrize(
    ("vendor", "device", "family", "name"),
    [
        (AMD, 0x744C, "Navi 31", "7900 XTX"),
        (AMD, 0x747E, "Navi 32", "7800 XT"),
        (AMD, 0x7480, "Navi 33", "7600"),
        (AMD, 0x7550, "Navi 48", "9070 XT"),
        (AMD, 0x7551, "Navi 48", "R9700"),
        (AMD, 0x7590, "Navi 44", "9060 XT"),
        (NVIDIA, 0x2204, "Ampere GA102", "RTX 3090"),
        (NVIDIA, 0x2504, "Ampere GA106, GA107", "RTX 3060"),
        (NVIDIA, 0x2684, "Ada AD102", "RTX 4090"),
        (NVIDIA, 0x2803, "Ada AD106, AD107", "RTX 4060 Ti"),
        (NVIDIA, 0x2B85, "Blackwell GB202", "RTX 5090"),
        (NVIDIA, 0x2C02, "Blackwell GB203", "RTX 5080"),
        (NVIDIA, 0x2D04, "Blackwell GB206, GB207", "RTX 5060 Ti"),
        (NVIDIA, 0x2F04, "Blackwell GB205", "RTX 5070"),
    ],
)
def test_cards_of_every_supported_generation(vendor: int, device: int, family: str, name: str):
    card = identify(vendor, device)
    assert (card.family, card.verdict) == (family, "supported")
    assert name in card.name
    assert card.target


def test_what_another_driver_boots_is_supported_here():
    for device in PROVEN_AMD:
        assert identify(AMD, device).verdict == "supported"
    for page in PROVEN_NVIDIA_PAGES:
        cards = [d for v, d in listed() if v == NVIDIA and d >> 8 == page and listed()[v, d][1]]
        assert cards
        verdicts = {
            identify(NVIDIA, d).verdict for d in cards if identify(NVIDIA, d).target != "sm_121"
        }
        assert verdicts == {"supported"}


@pytest.mark.parametrize(("vendor", "device"), [(AMD, 0x7441), (NVIDIA, 0x26FF), (NVIDIA, 0x2BEE)])
def test_an_unlisted_id_of_a_known_family_may_be_tried(vendor: int, device: int):
    card = identify(vendor, device)
    assert (card.verdict, card.listed) == ("untested", False)
    assert "may be tried" in card.reason
    assert f"{device:04x}" in card.name


@pytest.mark.parametrize(("vendor", "device"), [(AMD, 0x7600), (NVIDIA, 0x3400)])
def test_ids_newer_than_the_table_are_untested(vendor: int, device: int):
    assert identify(vendor, device).verdict == "untested"


def test_3d_controllers_are_cards():
    assert identify(NVIDIA, 0x25B6, 0x030200).verdict == "supported"
    assert identify(NVIDIA, 0x2321, 0x030200).verdict == "untested"


@pytest.mark.parametrize(
    ("vendor", "device", "class_code", "reason"),
    [
        (NVIDIA, 0x228B, 0x040300, "audio"),
        (NVIDIA, 0x1B80, 0x030000, "too old"),
        (AMD, 0x73BF, 0x030000, "RDNA2"),
        (AMD, 0x7341, 0x030000, "RDNA1"),
        (AMD, 0x15BF, 0x030000, "processor"),
        (AMD, 0x74A1, 0x120000, "CDNA"),
        (INTEL, 0xE212, 0x030000, "Intel"),
        (0x1A03, 0x2000, 0x030000, "not vendor 1a03"),
    ],
)
def test_a_refusal_says_why(vendor: int, device: int, class_code: int, reason: str):
    card = identify(vendor, device, class_code)
    assert card.verdict == "unsupported"
    assert reason in card.reason


def test_families_do_not_overlap_and_every_listed_card_has_one():
    ranges = sorted((f.vendor, low, high) for f in families() for low, high in f.ids)
    for (v, _, high), (w, low, _) in pairwise(ranges):
        assert v != w or high < low
    for vendor, device in listed():
        assert identify(vendor, device).family
