"""Nonsense from a driver never crashes an NVIDIA software card, nor makes it hang."""

from __future__ import annotations

import random

import pytest
from tests.unit.softcard.nvidia.host import FREE, FREE_VA, USER, Host

from exosuit.silicon.nvidia import rpc
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.gsp_controls import GspControl
from exosuit.silicon.nvidia.rm_controls import SmErrors, WorkSubmitToken
from exosuit.units import MiB

ROUNDS = 400
CONTROLS = [*GspControl, SmErrors.COMMAND, WorkSubmitToken.COMMAND]
CLASSES = [*ObjectClass, 0xC56F, 0xCA6F, 0xCEC0, 0xC7C0, 0xC7B5, 0xCAB5]


def register_offsets(host: Host) -> list[int]:
    return sorted(host.card.registers._declared)


@pytest.mark.parametrize("seed", range(6))
def test_random_registers(seed: int) -> None:
    draw = random.Random(seed)
    host = Host(draw.choice(["ga102", "gb202"]))
    if seed % 2:
        host.boot()
    offsets = register_offsets(host)
    for _ in range(ROUNDS):
        at = draw.choice(offsets)
        if draw.random() < 0.5:
            host.bar0.read32(at)
        else:
            host.bar0.write32(at, draw.choice((0, 1, 2, 0xFFFF_FFFF, draw.getrandbits(32))))
    host.card.reset()


@pytest.mark.parametrize("seed", range(6))
def test_random_messages(seed: int) -> None:
    draw = random.Random(seed)
    host = Host(draw.choice(["ga102", "gb202"]))
    host.boot()
    host.make_golden()
    host.make_user()
    known = [USER, host.device, host.subdevice, host.space, host.channel, 0, 5]
    for _ in range(ROUNDS):
        body = bytearray(draw.randbytes(draw.choice((0, 4, 24, 56, 368, 560, 4824))))
        if draw.random() < 0.8:
            head = (
                rpc.Control.make(
                    client=USER, handle=draw.choice(known), command=draw.choice(CONTROLS),
                    parameters_size=len(body),
                )
                if draw.random() < 0.5
                else rpc.Alloc.make(
                    client=USER, parent=draw.choice(known), handle=draw.getrandbits(32),
                    class_id=draw.choice(CLASSES), parameters_size=len(body),
                )
            )  # fmt: skip
            is_control = isinstance(head, rpc.Control)
            function = rpc.Function.GSP_RM_CONTROL if is_control else rpc.Function.GSP_RM_ALLOC
            host.send(function, bytes(head) + bytes(body))
        else:
            functions = [f for f in rpc.Function if f != rpc.Function.UNLOADING_GUEST_DRIVER]
            host.send(draw.choice(functions), bytes(body))
        host.pump()


@pytest.mark.parametrize("seed", range(6))
def test_random_page_tables_and_doorbells(seed: int) -> None:
    draw = random.Random(seed)
    host = Host(draw.choice(["ga102", "gb202"]))
    host.boot()
    host.make_golden()
    host.make_user()
    host.schedule()
    host.map(host.root, FREE_VA, FREE + 16 * MiB, 0x10000)
    tables = sorted({host.root, *host.tables.values()})
    for _ in range(ROUNDS // 4):
        for _ in range(4):
            at = draw.choice(tables) + 8 * draw.randrange(8)
            entry = draw.getrandbits(64)
            if draw.random() < 0.7:  # something that is nearly a table
                entry = draw.choice(tables) << draw.choice((-4, 0)) % 8 | draw.getrandbits(8)
            host.bar1.write64(at, entry & (1 << 64) - 1)
        host.invalidate()
        host.push([draw.getrandbits(32) for _ in range(8)])
        host.pump()


def test_tables_that_lead_to_themselves_end() -> None:
    host = Host("gb202")
    host.boot()
    host.make_golden()
    host.make_user()
    table = host.table(host.root, FREE_VA, 2)
    entry = int(host.format.pointer(table, 2)).to_bytes(8, "little")
    host.bar1.write(table, entry * 512)
    host.invalidate()
    host.card.objects.channels[4].space.physical(FREE_VA)
    assert any("page tables below one root" in note for note in host.card.notes)
