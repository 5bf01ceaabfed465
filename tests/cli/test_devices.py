"""`exosuit list`."""

import json

import pytest

from exosuit.cli import devices
from exosuit.cli.main import main
from exosuit.errors import UsageError
from exosuit.kernel.target import Target
from exosuit.settings import Settings

FIELDS = {
    "device", "name", "vendor_id", "device_id", "class_code", "family", "memory_bytes", "driver",
    "connection", "verdict", "reason", "next", "known",
}  # fmt: skip


def test_the_host_is_a_ready_device(capsys):
    assert main(["list", "--json"], Settings()) == 0
    row, *cards = json.loads(capsys.readouterr().out)["devices"]
    assert all(set(card) == FIELDS for card in cards)
    assert set(row) >= FIELDS
    assert (row["device"], row["verdict"], row["known"]) == ("cpu", "ready", "hardware")
    assert row["memory_bytes"] > 1 << 28
    assert row["cores"] >= 1
    assert row["features"] == [Target.host().name.rpartition("-")[2]]


def test_as_a_table(capsys):
    assert main(["list"], Settings()) == 0
    heading, row, *_ = capsys.readouterr().out.splitlines()
    columns = ["DEVICE", "NAME", "MEMORY", "DRIVER", "CONNECTION", "VERDICT", "KNOWN"]
    assert heading.split() == columns
    assert row.startswith("cpu ")
    assert Target.host().name.rpartition("-")[2] in row


def test_a_processor_without_the_floor_is_told(capsys, monkeypatch):
    def refuse(level=""):
        raise UsageError("w", cause="it needs AVX2", next="use a card")

    monkeypatch.setattr(Target, "host", refuse)
    row = devices.cpu_row()
    assert (row["verdict"], row["reason"], row["next"]) == (
        "unsupported",
        "it needs AVX2",
        "use a card",
    )
    assert row["known"] is None
    assert main(["list"], Settings()) == 0
    assert "it needs AVX2" in capsys.readouterr().err


@pytest.mark.parametrize(("system", "cpuinfo"), [("Linux", "absent"), ("Darwin", "")])
def test_a_processor_nobody_names(monkeypatch, system, cpuinfo):
    monkeypatch.setattr(devices.platform, "system", lambda: system)
    monkeypatch.setattr(devices, "Path", lambda path: type("P", (), {"exists": lambda s: False})())
    done = type("Done", (), {"stdout": ""})()
    monkeypatch.setattr(devices.subprocess, "run", lambda *a, **k: done)
    assert devices.processor_name() == devices.platform.machine()


def test_software_cards_are_listed_when_they_are_named(capsys):
    assert main(["list", "--json", "--device", "soft:gfx1100,vram=2G,link=tb4"], Settings()) == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    soft = next(row for row in rows if row["device"].startswith("soft:"))
    assert (soft["verdict"], soft["known"]) == ("ready", "simulated")
    assert soft["memory_bytes"] == 2 << 30
    assert (soft["vendor_id"], soft["device_id"]) == ("1002", "744c")
    assert "Thunderbolt 4" in soft["connection"]
    assert main(["list", "--json", "--device", "soft:gfx1"], Settings()) == 2
