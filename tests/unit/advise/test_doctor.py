from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.advise.macos_situations import load, names, rewrite, table

from exosuit.advise import checks_linux, checks_macos
from exosuit.advise.doctor import diagnose, report
from exosuit.advise.failure import remembered
from exosuit.advise.probes import MACOS, gather_linux, gather_macos
from exosuit.advise.situation import Answer, Situation, read_situation, redact
from exosuit.errors import BootFailed, CorruptFile


@pytest.mark.parametrize("name", names())
def test_each_situation_names_its_layer_and_the_next_step(name: str) -> None:
    recorded = load(name)
    diagnosis = diagnose(recorded.situation)
    broken = diagnosis.broken
    assert (broken.layer if broken else "") == recorded.layer, recorded.note
    assert sorted(check.name for check in diagnosis.warnings) == sorted(recorded.warnings)
    if broken:
        assert recorded.next in broken.next
        assert broken.cause
        assert broken.found
    assert diagnosis.ok == (not recorded.layer)


def test_the_page_shows_what_doctor_says_today() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text("utf-8")
    assert table() in page, "run  python -m tests.unit.advise.macos_situations docs/doctor.md"
    assert rewrite(page) == page


def test_every_layer_is_broken_in_some_situation() -> None:
    layers = {load(name).layer for name in names()}
    assert layers >= set(checks_macos.LAYERS) - {"link", "risk"}


@pytest.mark.parametrize("name", names())
def test_every_layer_is_reported_in_order_and_once_broken_the_rest_is_skipped(name: str) -> None:
    checks = diagnose(load(name).situation).checks
    order = list(checks_macos.LAYERS)
    positions = [order.index(check.layer) for check in checks]
    assert positions == sorted(positions)
    assert set(order) == {check.layer for check in checks}
    statuses = [check.status for check in checks]
    if "failed" in statuses and load(name).layer != "server":
        after = statuses[statuses.index("failed") + 1 :]
        assert set(after) <= {"skipped", "ok", "warning"}
        assert "failed" not in after


def test_nothing_ever_suggests_what_needs_sip_off() -> None:
    for name in names():
        for check in diagnose(load(name).situation).checks:
            assert "systemextensionsctl reset" not in check.next
            assert "csrutil" not in check.next
            assert "killall" not in check.next
            assert "pkill" not in check.next


def test_an_owner_keeps_the_configuration_unread() -> None:
    """`gather` asks for the configuration only when nobody else has the card."""
    asked: list[str] = []

    def ask(command, timeout_s):
        asked.append(command[0])
        assert timeout_s <= 15
        return Answer(missing=True)

    situation = gather_macos(Path("/nonexistent"), ask)
    assert set(MACOS) <= set(situation.answers)
    assert "config" not in situation.answers
    assert "systemextensionsctl" in asked
    assert diagnose(situation).checks


def test_silence_of_every_tool_is_no_crash() -> None:
    for system in ("macos", "linux"):
        assert diagnose(Situation(system)).checks
    hanging = Situation("macos", {name: Answer(timed_out=True) for name in MACOS})
    diagnosis = diagnose(hanging)
    assert any(check.name == "system tools" for check in diagnosis.warnings)


def test_a_report_is_redacted_and_can_be_read_back(tmp_path: Path) -> None:
    situation = load("healthy-nvidia").situation
    named = dict(situation.answers)
    named["ps"] = Answer(
        named["ps"].text + "  99 S 0.0 01:00 /Users/marie.curie/TinyGPU server /tmp/x\n"
    )
    bundle = report(Situation("macos", named), "0.1.0")
    text = json.dumps(bundle)
    assert "marie" not in text
    assert "0x05AC000000000000" not in text
    path = tmp_path / "report.json"
    path.write_text(text)
    again = read_situation(path)
    assert diagnose(again).as_json() == bundle["diagnosis"]


@pytest.mark.parametrize(
    "text",
    [
        "serial-number: C02XK0AAJG5H",
        '"Serial Number (system)": "C02XK0AAJG5H"',
        "uuid = 0F1E2D3C-1111-2222-3333-444455556666",
        "<key>IOPlatformSerialNumber</key>\n<string>C02XK0AAJG5H</string>",
        "/home/marie/models, /Users/marie/x",
        "mail marie@example.org about 3c:22:fb:aa:bb:cc",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    gone = redact(text)
    for secret in ("C02XK0AAJG5H", "0F1E2D3C", "marie", "3c:22"):
        assert secret not in gone


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "exosuit situation 1", "system": "macos", "answers": [1]}',
             '{"format": "exosuit situation 1", "system": "dos", "answers": {}}',
             '{"format": "exosuit situation 1", "system": "macos", "answers": {"a": {"text": 5}}}'],
)  # fmt: skip
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CorruptFile):
        read_situation(path)


class Machine:
    """A Linux machine made of files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.card = root / "sys/devices/pci0000:00/0000:05:00.0"
        self.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")

    def write(self, path: str, text: str | bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())

    def add_card(self, vendor: int = 0x1002, device: int = 0x744C, **facts: str | bytes) -> None:
        config = bytearray(64)
        config[0:4] = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
        config[4] = 6
        config[0x10:0x18] = (0xC | 8 << 32).to_bytes(8, "little")
        given: dict[str, str | bytes] = {
            "class": "0x030000\n",
            "vendor": f"{vendor:#06x}\n",
            "device": f"{device:#06x}\n",
            "config": bytes(config),
            "resource": "0x0000000800000000 0x0000000dffffffff 0x000000000014220c\n",
            "resource0": b"",
            "current_link_speed": "16.0 GT/s PCIe\n",
            "current_link_width": "16\n",
            "max_link_speed": "16.0 GT/s PCIe\n",
            "max_link_width": "16\n",
            "power_state": "D0\n",
        }
        for name, value in {**given, **facts}.items():
            self.write(f"{self.card.relative_to(self.root)}/{name}", value)
        devices = self.root / "sys/bus/pci/devices"
        devices.mkdir(parents=True, exist_ok=True)
        (devices / "0000:05:00.0").symlink_to(self.card)

    def bind(self, driver: str) -> None:
        target = self.root / "sys/bus/pci/drivers" / driver
        target.mkdir(parents=True)
        (self.card / "driver").symlink_to(target)

    def diagnose(self):
        return diagnose(gather_linux(self.root, self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def warned(diagnosis) -> list[str]:
    return [check.name for check in diagnosis.warnings]


def test_linux_free_card(machine: Machine) -> None:
    machine.add_card()
    diagnosis = machine.diagnose()
    assert diagnosis.ok
    assert not diagnosis.warnings
    assert {check.layer for check in diagnosis.checks} == set(checks_linux.LAYERS)


def test_linux_without_a_card_is_no_fault(machine: Machine) -> None:
    diagnosis = machine.diagnose()
    assert diagnosis.ok
    assert warned(diagnosis) == ["card"]


def test_linux_vendor_driver_in_the_way(machine: Machine) -> None:
    machine.add_card()
    machine.bind("amdgpu")
    broken = machine.diagnose().broken
    assert broken is not None
    assert broken.layer == "driver"
    assert "go dark" in broken.next


def test_linux_dead_card(machine: Machine) -> None:
    machine.add_card(config=b"\xff" * 64)
    broken = machine.diagnose().broken
    assert broken is not None
    assert (broken.layer, broken.found) == ("answer", "every read gives 0xffffffff")


def test_linux_sleeping_card_is_not_dead(machine: Machine) -> None:
    machine.add_card(config=b"\xff" * 64, power_state="D3cold\n")
    diagnosis = machine.diagnose()
    assert diagnosis.ok
    assert warned(diagnosis) == ["power"]


def test_linux_small_bar_and_slow_link(machine: Machine) -> None:
    machine.add_card(
        resource="0x0000000800000000 0x000000080fffffff 0x000000000014220c\n",
        current_link_width="4\n",
    )
    assert warned(machine.diagnose()) == ["link", "resizable BAR"]


def test_linux_vfio_needs_its_group(machine: Machine) -> None:
    machine.add_card()
    machine.bind("vfio-pci")
    group = machine.root / "sys/kernel/iommu_groups/17"
    group.mkdir(parents=True)
    (machine.card / "iommu_group").symlink_to(group)
    broken = machine.diagnose().broken
    assert broken is not None
    assert broken.layer == "access"
    assert "/dev/vfio/17" in broken.next
    machine.write("dev/vfio/17", "")
    assert machine.diagnose().ok


def test_linux_nvidia_driver_needs_its_nodes(machine: Machine) -> None:
    machine.add_card(0x10DE, 0x2684)
    machine.bind("nvidia")
    broken = machine.diagnose().broken
    assert broken is not None
    assert broken.layer == "access"
    for node in ("nvidiactl", "nvidia0"):
        machine.write(f"dev/{node}", "")
    broken = machine.diagnose().broken
    assert broken is not None
    assert broken.found == "/dev/nvidia-uvm cannot be opened by this user"
    machine.write("dev/nvidia-uvm", "")
    assert machine.diagnose().ok


NVIDIA_BARS = """\
0x0000000081000000 0x0000000081ffffff 0x0000000000040200
{window}
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000820000000 0x0000000821ffffff 0x000000000014220c
"""


@pytest.mark.parametrize(
    ("window", "found"),
    [
        ("0x0000000800000000 0x000000080fffffff 0x000000000014220c", ""),
        ("0x0000000000000000 0x0000000000000000 0x0000000000000000", "has no address"),
        ("0x0000000800000000 0x0000000801ffffff 0x000000000014220c", "has 32 MiB"),
    ],
)
def test_linux_nvidia_window_onto_memory(machine: Machine, window: str, found: str) -> None:
    machine.add_card(0x10DE, 0x2684, resource=NVIDIA_BARS.format(window=window))
    broken = machine.diagnose().broken
    assert (broken.layer, found in broken.found) == ("answer", True) if broken else not found


def test_linux_chips_that_only_nvidia_starts(machine: Machine) -> None:
    bars = NVIDIA_BARS.format(window="0x800000000 0x1fffffffff 0x14220c")
    machine.add_card(0x10DE, 0x2331, **{"class": "0x030200\n"}, resource=bars)
    broken = machine.diagnose().broken
    assert broken is not None
    assert (broken.layer, "starts GH100" in broken.cause) == ("driver", True)
    machine.bind("nvidia")
    for node in ("nvidiactl", "nvidia0", "nvidia-uvm"):
        machine.write(f"dev/{node}", "")
    machine.write("sys/module/nvidia/version", "580.142\n")
    diagnosis = machine.diagnose()
    assert diagnosis.ok
    assert not diagnosis.warnings
    machine.write("sys/module/nvidia/version", "535.288.01\n")
    assert warned(machine.diagnose()) == ["version"]


def test_linux_intel_bridge_before_a_card(machine: Machine) -> None:
    bars = NVIDIA_BARS.format(window="0x800000000 0x80fffffff 0x14220c")
    machine.add_card(0x10DE, 0x2684, resource=bars)
    for name, text in (("vendor", "0x8086"), ("device", "0x5786"), ("class", "0x060400")):
        machine.write(f"sys/devices/pci0000:00/{name}", text)
    told = [check.found for check in machine.diagnose().checks if check.name == "bridge"]
    assert told == [
        "Intel's Thunderbolt bridge 8086:5786 loses the link when the firmware retrains it, so the"
        " link is kept at about 0.9 GB/s"
    ]


def test_linux_last_failed_boot(machine: Machine) -> None:
    machine.add_card()
    error = BootFailed("the booter ended badly", cause="c", next="n", step="booter", mailbox0=0xB)
    with pytest.raises(BootFailed), remembered("pci:0000:05:00.0", machine.root):
        raise error
    broken = machine.diagnose().broken
    assert broken is not None
    assert (broken.layer, "step booter" in broken.found) == ("boot", True)
    with remembered("pci:0000:05:00.0", machine.root):
        pass
    assert machine.diagnose().ok


def test_linux_lockdown_and_thunderbolt_consent(machine: Machine) -> None:
    machine.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    machine.write("sys/bus/thunderbolt/devices/0-1/authorized", "0\n")
    machine.write("sys/bus/thunderbolt/devices/0-1/device_name", "Core X\n")
    diagnosis = machine.diagnose()
    assert "lockdown" in warned(diagnosis)
    assert diagnosis.broken is not None
    assert diagnosis.broken.layer == "cable"
    assert "boltctl" in diagnosis.broken.next


def test_linux_box_without_card(machine: Machine) -> None:
    machine.write("sys/bus/thunderbolt/devices/0-1/authorized", "1\n")
    broken = machine.diagnose().broken
    assert broken is not None
    assert broken.layer == "card"


def test_linux_owned_elsewhere(machine: Machine) -> None:
    from exosuit.link.lock import CardLock

    machine.add_card()
    with CardLock.acquire("pci:0000:05:00.0", machine.root / "locks"):
        broken = machine.diagnose().broken
    assert broken is not None
    assert broken.layer == "owner"
    assert machine.diagnose().ok


def test_this_very_machine(tmp_path: Path) -> None:
    from exosuit.advise.probes import gather

    diagnosis = diagnose(gather(tmp_path))
    assert diagnosis.checks
    assert all(check.found for check in diagnosis.checks)
