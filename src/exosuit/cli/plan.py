"""`exosuit plan MODEL`: does it fit, where does it go, how fast, and what would it take."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from exosuit.advise.footprint import Footprint, SizeOf
    from exosuit.advise.limits import DeviceLimits
    from exosuit.advise.placement import Room
    from exosuit.advise.plan import Plan, Remix
    from exosuit.advise.shapes import ModelShape

DEFAULT_MIX = "Q4_K_M"


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers,
        "plan",
        "Say whether a model fits, where it goes and how fast it will be.",
        "exosuit plan llama-3.3-70b:Q4_K_M --card 'RTX 5090' --mac m4-pro:48",
        json=True,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL",
        help="a GGUF file, a name in the store, or NAME[:MIX] of a well-known model",
    )  # fmt: skip
    parser.add_argument(
        "--card", action="append", default=[], metavar="NAME",
        help="plan for this card, owned or not; may repeat (default: the cards of this machine)",
    )  # fmt: skip
    parser.add_argument("--mac", metavar="CHIP[:GIB]", help="plan for this Mac as the host")
    parser.add_argument("--link", metavar="NAME", help="how the card is reached: tb4, tb5, slot")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="length of the context")
    parser.add_argument("--explain", action="store_true", help="show the arithmetic")
    parser.add_argument("--models", action="store_true", help="list the well-known models")
    parser.add_argument("--cards", action="store_true", help="list the cards, Macs and links")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.models or arguments.cards:
        _list_models(arguments.json) if arguments.models else _list_cards(arguments.json)
        return 0
    if not arguments.model:
        raise UsageError(
            "plan needs a model",
            cause="no MODEL was given",
            next="exosuit plan llama-3.1-8b   or   exosuit plan --models",
        )
    from exosuit.advise.plan import plan

    rooms = _rooms(arguments.card, arguments.link, arguments.mac)
    need, remix = _need(arguments.model, settings, _size_of(bool(rooms)))
    host = _host(arguments.mac, settings)
    made = plan(need, rooms, host, arguments.context, remix=remix)
    if arguments.json:
        render.document(made.as_json())
    else:
        _print(made, arguments.explain)
    return 0


def _size_of(on_cards: bool) -> SizeOf:
    """What a tensor takes where most of the model goes."""
    from exosuit.advise.placing import placed_by
    from exosuit.ops.packing import CpuPacking, GpuPacking

    return placed_by(GpuPacking() if on_cards else CpuPacking())


def _need(text: str, settings: Settings, size_of: SizeOf) -> tuple[Footprint, Remix | None]:
    """The footprint of a file or of a well-known model, and the model in other mixes if known."""
    from exosuit.advise import claims, footprint, mixes, shapes
    from exosuit.advise.placing import caveats
    from exosuit.errors import ModelNotFound
    from exosuit.models.store import Store

    claims.refuse_fiction(text)
    path = Path(text).expanduser()
    if path.suffix != ".gguf" and not path.exists():
        name, _, mix = text.partition(":")
        store = Store(settings.model_store)
        if not mix and text in store.names():
            path = store.find(text)
        else:
            try:
                shape = shapes.find_model(name)
            except UsageError as unknown:
                raise ModelNotFound(
                    f"no model called {name!r} is known here",
                    cause=f"it is no GGUF file, not in the store, and {unknown.cause}",
                    next="exosuit plan --models",
                    **unknown.fields,
                ) from unknown
            usual = "MXFP4" if shape.architecture == "gpt-oss" else DEFAULT_MIX
            chosen = mixes.find_mix(mix) if mix else usual
            return _mixed(shape, chosen, size_of), lambda other: _mixed(shape, other, size_of)
    from exosuit.models.gguf import GgufFile

    with GgufFile.open(path) as file:
        need = footprint.from_header(str(path), file.metadata, file.tensors, size_of)
        kinds = [t.type for t in file.tensors.values() if len(t.shape) > 1]
        notes = (*need.notes, *caveats(need.architecture, kinds))
        return replace(need, notes=notes), None


def _mixed(shape: ModelShape, mix: str, size_of: SizeOf) -> Footprint:
    """A well-known model in one storage mix, as exosuit would place it."""
    from exosuit.advise import footprint, mixes, shapes
    from exosuit.advise.placing import caveats

    need = footprint.from_shape(shape, mix, size_of)
    kinds = mixes.stored_as(shape, shapes.tensors(shape), mix)
    return replace(need, notes=(*need.notes, *caveats(shape.architecture, kinds)))


def _host(mac: str | None, settings: Settings) -> Room:
    from exosuit.advise.catalogue import find_mac
    from exosuit.advise.host import mac_room, this_host
    from exosuit.cli.devices import processor_name

    if not mac:
        return this_host(processor_name(), lambda: _limits(settings))
    chip, _, memory = mac.partition(":")
    size = memory.lower().removesuffix("gib").removesuffix("gb").strip()
    if memory and not size.isdigit():
        raise UsageError(
            f"{memory!r} is no size of memory",
            cause="--mac takes a chip and, after a colon, its memory in GiB",
            next="exosuit plan llama-3.1-8b --mac m4-pro:48",
        )
    return mac_room(find_mac(chip), int(size) if size else None)


def _limits(settings: Settings) -> DeviceLimits:
    """What this machine's processor can do at most, measured now."""
    from exosuit import open_device
    from exosuit.advise.limits import measure_limits
    from exosuit.kernel import Target
    from exosuit.ops.programs import Programs

    device = open_device("cpu", settings, None)
    limits = measure_limits(device, Programs(Target.named(device.target), None))
    device.close()
    return limits


def _rooms(names: list[str], link: str | None, mac: str | None) -> list[Room]:
    """The named cards, or those of this machine that the catalogue knows."""
    from exosuit.advise.catalogue import find_link, find_mac
    from exosuit.advise.plan import with_card

    if link:
        way = find_link(link)
    elif mac:
        way = find_link(find_mac(mac.partition(":")[0]).link)
    else:
        way = find_link("Thunderbolt 4" if names else "slot4")
    if not names and not mac:
        names = _own_cards()
    rooms: list[Room] = []
    for name in names:
        rooms = with_card(rooms, name, way.gb_s)
    return rooms


def _own_cards() -> list[str]:
    """Catalogue names of this machine's cards; one that the catalogue lacks is left out, aloud."""
    from exosuit.advise.catalogue import cards_called
    from exosuit.link.find import find_cards
    from exosuit.silicon.pci_ids import identify

    names: list[str] = []
    for found in find_cards():
        identity = identify(found.vendor, found.device, found.class_code)
        may_be = sorted(cards_called(identity.name), key=lambda card: card.memory_gib)
        if not may_be:
            render.note(f"{identity.name} is not in the catalogue; planned without it")
            continue
        names.append(may_be[0].name)
        if len(may_be) > 1:
            others = ", ".join(card.name for card in may_be[1:])
            render.note(f"{names[-1]} is taken for this card; --card says if it is {others}")
    return names


def _print(made: Plan, explain: bool) -> None:
    need, speed = made.need, made.predicted
    title = f"{need.name} {need.mix}".strip()
    verdict = "fits" if made.fits else "does not fit"
    render.text(f"{title} {verdict}: {made.placement.because.removeprefix('does not fit: ')}")
    rows = [
        (p.room.device, f"{p.first} to {p.stop - 1}" if p.stop > p.first else "none",
         human_bytes(p.weight_bytes), human_bytes(p.kv_bytes), human_bytes(p.bytes))
        for p in made.placement.value
    ]  # fmt: skip
    if rows:
        render.table(("device", "layers", "weights", "kv cache", "in all"), rows)
    if speed:
        render.text(
            f"predicted: {speed.decode_tok_s:.1f} tok/s decode, {speed.prefill_tok_s:.0f} tok/s"
            f" prefill, {human_seconds(speed.load_s)} to load, at {made.context.value} tokens of"
            " context at most"
        )
    if made.instead:
        render.text("instead:")
        for entry in made.instead:
            render.text(f"  {entry.text}")
    if explain:
        render.text("because:")
        for reason in made.because:
            render.text(f"  {reason}")
    else:
        said = [*made.need.notes[1:], *(made.because[-1:] if not made.fits else ())]
        for reason in said:
            render.text(f"note: {reason}")
        render.note("predictions are a model, not a measurement; --explain shows the arithmetic")


def _list_models(as_json: bool) -> None:
    from exosuit.advise.shapes import models

    if as_json:
        names = [{"name": m.name, "aliases": m.aliases, "source": m.source} for m in models()]
        render.document({"models": names})
        return
    rows = [(m.name, f"{m.parameters_b:g}", str(m.layers), str(m.context)) for m in models()]
    render.table(("model", "billions", "layers", "context"), rows)


def _list_cards(as_json: bool) -> None:
    from exosuit.advise.catalogue import cards, links, macs

    if as_json:
        render.document(
            {
                "cards": [{"name": c.name, "memory_gib": c.memory_gib} for c in cards()],
                "macs": [{"name": m.name, "gb_s": m.gb_s} for m in macs()],
                "links": [{"name": way.name, "gb_s": way.gb_s} for way in links()],
            }
        )
        return
    render.table(
        ("card", "memory", "GB/s", "f16 TFLOP/s", "watts", "price"),
        [
            (c.name, f"{c.memory_gib} GiB", f"{c.gb_s:g}", f"{c.f16_tflops:g}", str(c.power_w),
             c.price)
            for c in cards()
        ],
    )  # fmt: skip
    macs_ = [(m.name, f"{m.gb_s:g}", m.link) for m in macs()]
    render.table(("mac", "GB/s", "link"), macs_)
    render.table(("link", "GB/s"), [(way.name, f"{way.gb_s:g}") for way in links()])
