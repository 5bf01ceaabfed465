"""QEMU's `edu` PCI device as a subject of the contract. Run inside the guest as root.

Registers from QEMU docs/specs/edu.rst: 0x80 source, 0x88 target, 0x90 count, 0x98 command (bit 0
start, bit 1 from the device to memory); the device's own 4,096 bytes lie at 0x40000. Only one word
keeps what is written to it in 32 bits, so `words` is 1.
"""

import os
import sys
import time
from pathlib import Path

from tests.contract.pci_function import CHECKS, Subject

from exosuit.errors import ExosuitError
from exosuit.link.function import DmaMemory, PciFunction
from exosuit.link.sysfs import SysfsLink
from exosuit.link.vfio import VfioLink

SOURCE, TARGET, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
BUFFER = 0x40000


def edu_copy(link: PciFunction, source: DmaMemory, target: DmaMemory, size: int) -> None:
    """Memory to device to memory, by the device's DMA engine; 100 ms of its time each."""
    bar = link.bar(0)
    assert bar.read32(0) == 0x010000ED
    bar.write32(4, 0x0F0F_0F0F)
    assert bar.read32(4) == 0xF0F0_F0F0
    for start, end, direction in (
        (source.bus_address(), BUFFER, 0),
        (BUFFER, target.bus_address(), 2),
    ):
        bar.write64(SOURCE, start)
        bar.write64(TARGET, end)
        bar.write64(COUNT, size)
        bar.write32(COMMAND, 1 | direction)
        deadline = time.monotonic() + 30
        while bar.read32(COMMAND) & 1:
            assert time.monotonic() < deadline, "the device's DMA does not end"
            time.sleep(0.01)


EDU = Subject(vendor=0x1234, device=0x11E8, bars=(0,), scratch=(0, SOURCE), copy=edu_copy, words=1)


def find_edu() -> str:
    for folder in Path("/sys/bus/pci/devices").iterdir():
        if (folder / "device").read_text().strip() == "0x11e8":
            return folder.name
    raise SystemExit("EDU no device")


def run(title: str, opener: type[SysfsLink] | type[VfioLink], address: str) -> None:
    """Run each check of the contract on a link of its own; print a line for each."""
    for check in CHECKS:
        name = f"{title} {check.__name__}"
        with opener.open(address, locks=Path("/run/locks")) as link:
            check(link, EDU)
            print(f"EDU ok {name} {link.counters}", flush=True)


def main() -> None:
    address = find_edu()
    folder = Path("/sys/bus/pci/devices") / address
    mode = sys.argv[1]
    expect(VfioLink, address, "not bound to vfio-pci")
    bare = Path("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    if mode == "plain":
        run("sysfs", SysfsLink, address)
        if not bare.exists():  # Debian builds its kernels without it
            print("EDU done", flush=True)
            return
        bare.write_text("1")
    else:
        expect(SysfsLink, address, "the IOMMU translates")
    (folder / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(address)
    run(f"vfio-{mode}", VfioLink, address)
    os.sync()
    print("EDU done", flush=True)


def expect(opener: type[SysfsLink] | type[VfioLink], address: str, words: str) -> None:
    """A refusal in words, and no lock left behind."""
    try:
        with opener.open(address, locks=Path("/run/locks")) as link:
            link.allocate_dma(4096)
    except ExosuitError as error:
        if words not in error.what:
            raise
        print(f"EDU refused: {error.what}", flush=True)
    else:
        raise SystemExit(f"EDU {opener.__name__} did not refuse")


if __name__ == "__main__":
    main()
