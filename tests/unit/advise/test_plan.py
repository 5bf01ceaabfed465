from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.advise.catalogue import find_mac
from exosuit.advise.claims import refuse_fiction
from exosuit.advise.footprint import Footprint, from_shape
from exosuit.advise.host import mac_room, this_host
from exosuit.advise.limits import DeviceLimits
from exosuit.advise.placement import Room, place, predict
from exosuit.advise.plan import Plan, plan, with_card
from exosuit.advise.shapes import find_model
from exosuit.advise.speed import CLASS, Rates
from exosuit.errors import ModelNotFound, UsageError
from exosuit.units import GiB

HOST = mac_room(find_mac("m4 pro"), 48)


def need(model: str, mix: str = "Q4_K_M") -> Footprint:
    return from_shape(find_model(model), mix)


def rooms(*names: str, gb_s: float = 2.8) -> list[Room]:
    found: list[Room] = []
    for name in names:
        found = with_card(found, name, gb_s)
    return found


def planned(model: str, mix: str, *cards: str, context: int | None = None) -> Plan:
    return plan(
        need(model, mix), rooms(*cards), HOST, context, remix=lambda other: need(model, other)
    )


def test_an_8b_fits_a_24_gb_card() -> None:
    made = planned("llama-3.1-8b", "Q4_K_M", "RTX 4090")
    assert made.fits
    assert [part.room.device for part in made.placement.value] == ["RTX 4090"]
    part = made.placement.value[0]
    assert (part.first, part.stop) == (0, 32)
    assert part.weight_bytes == made.need.weight_bytes
    assert made.predicted is not None
    assert 120 <= made.predicted.decode_tok_s <= 180
    assert not made.instead


def test_70b_at_4_bits_on_32_gb_is_corrected_kindly() -> None:
    made = planned("llama-3.3-70b", "Q4_K_M", "RTX 5090")
    assert not made.fits
    assert [part.room.device for part in made.placement.value] == ["Apple M4 Pro", "RTX 5090"]
    assert any("42.5 GB" in reason and "articles" in reason for reason in made.because)
    assert made.predicted is not None
    assert 8 <= made.predicted.decode_tok_s <= 14.5  # users.md C3: the bound of a perfect split
    offers = " | ".join(entry.text for entry in made.instead)
    assert "fits" in offers
    assert "two RTX 3090" in offers
    assert "one Radeon PRO W7900" in offers


def test_what_is_offered_instead_does_fit() -> None:
    made = planned("llama-3.3-70b", "Q4_K_M", "RTX 5090")
    mix = made.instead[0].what.split()[0]
    assert planned("llama-3.3-70b", mix, "RTX 5090", context=made.context.value).fits
    assert planned("llama-3.3-70b", "Q4_K_M", "RTX 3090", "RTX 3090").fits


def test_a_long_context_is_what_does_not_fit() -> None:
    made = planned("llama-3.1-8b", "Q8_0", "RTX 3060", context=65536)
    assert not made.fits
    shorter = next(e for e in made.instead if "context" in e.what)
    tokens = int(shorter.command.split()[-1])
    assert planned("llama-3.1-8b", "Q8_0", "RTX 3060", context=tokens).fits


def test_the_context_shrinks_by_itself_only_when_nothing_was_asked() -> None:
    made = planned("qwen2.5-72b", "Q4_K_M", "RTX 4090", "RTX 4090")
    assert made.fits
    assert made.context.value == 4096
    assert made.context.instead_of == ("8192 tokens",)
    asked = planned("qwen2.5-72b", "Q4_K_M", "RTX 4090", "RTX 4090", context=8192)
    assert asked.context.value == 8192
    assert not asked.fits


def test_two_cards_share_the_layers_without_gap() -> None:
    made = planned("llama-3.3-70b", "Q4_K_M", "RTX 4090", "RTX 4090")
    first, second = made.placement.value
    assert (first.first, first.stop, second.stop) == (0, second.first, 80)
    assert second.room.device == "RTX 4090 #2"
    assert second.has_head
    assert not first.has_head


def test_without_a_card_the_host_is_planned() -> None:
    made = planned("qwen3-4b", "Q4_K_M")
    assert made.fits
    assert made.placement.value[0].room.rates.is_host


def test_nowhere_to_go() -> None:
    made = planned("llama-3.1-405b", "Q8_0", "RTX 3060")
    assert not made.fits
    assert made.placement.value == ()
    assert made.predicted is None
    assert made.as_json()["predicted"]["decode_tok_s"] is None


def test_impossible_contexts_are_refused() -> None:
    for context in (0, -5, 1 << 40):
        with pytest.raises(UsageError) as caught:
            planned("llama-3.1-8b", "Q4_K_M", "RTX 4090", context=context)
        assert caught.value.fields["limit"] == 131072


def test_the_document_has_the_promised_shape() -> None:
    document = planned("llama-3.3-70b", "Q4_K_M", "RTX 5090").as_json()
    promised = {"model", "fits", "placement", "kv_bytes", "context", "predicted", "because"}
    assert promised | {"instead"} <= set(document)
    assert set(document["placement"][0]) == {"device", "layers", "bytes"}
    assert set(document["predicted"]) == {"decode_tok_s", "prefill_tok_s", "load_s"}
    assert all(isinstance(text, str) for text in document["because"] + document["instead"])


def test_a_slow_link_costs_loading_and_nothing_else() -> None:
    fast, slow = (
        plan(need("llama-3.1-8b"), rooms("RTX 4090", gb_s=link), HOST).predicted
        for link in (6.0, 0.88)
    )
    assert fast is not None
    assert slow is not None
    assert slow.load_s > 2 * (fast.load_s - 4.2)
    assert slow.decode_tok_s == fast.decode_tok_s


@pytest.mark.parametrize("text", ["llama-4-scout-8b", "Maverick 70B", "llama-3-30b:Q4_K_M"])
def test_models_of_fiction_are_set_right(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        refuse_fiction(text)
    assert caught.value.next.startswith("exosuit plan ")
    refuse_fiction("llama-4-scout")


def test_an_intel_card_is_corrected() -> None:
    made = planned("qwen3-4b", "Q4_K_M", "Arc B580")
    assert any("Intel" in reason for reason in made.because)


@settings(max_examples=60, deadline=None)
@given(
    memory=st.lists(st.integers(1, 64), max_size=3),
    host=st.integers(1, 128),
    context=st.integers(1, 131072),
)
def test_a_placement_holds_every_layer_once_and_within_its_rooms(
    memory: list[int], host: int, context: int
) -> None:
    model = need("llama-3.1-8b", "Q8_0")
    cards = [Room(f"card {i}", size * GiB, Rates(500, 50), 2.8) for i, size in enumerate(memory)]
    parts = place(model, context, cards, Room("host", host * GiB, Rates(50, 1, host_share=0.8)))
    if parts is None:
        return
    covered = [layer for part in parts for layer in range(part.first, part.stop)]
    assert covered == list(range(32))
    for part in parts:
        assert part.bytes <= part.room.usable_bytes
    assert [part.has_head for part in parts] == [False] * (len(parts) - 1) + [True]
    assert sum(part.weight_bytes for part in parts) == model.weight_bytes
    assert predict(model, parts, 1024, CLASS).decode_tok_s > 0


def test_a_mac_is_looked_up_and_anything_else_is_measured() -> None:
    def measured() -> DeviceLimits:
        return DeviceLimits(read_gb_s=36, int8_gop_s=900, f32_gflop_s=230)

    assert this_host("AMD EPYC", measured).rates == Rates(36, 0.9, host_share=0.8)

    def never() -> DeviceLimits:
        raise AssertionError("a Mac needs no measurement")

    assert this_host("Apple M4 Pro", never).rates.gb_s == 273
