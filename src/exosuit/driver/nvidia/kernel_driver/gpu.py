"""`Gpu`: one card that the kernel driver has, opened; its device objects, and what it lets us see.

The kernel initialises a card when its node is opened, and shows memory through a file of its own
for each mapping: the driver prepares the file, then mmap finds there what was prepared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from exosuit.driver.nvidia.kernel_driver import refusals
from exosuit.driver.nvidia.kernel_driver.client import CONTROL_NODE, KernelClient, lend
from exosuit.driver.nvidia.objects import ask, make_device
from exosuit.errors import UnsupportedCard, UsageError
from exosuit.link.nodes import Mapping
from exosuit.silicon.nvidia.ioctl import (
    CARDS_LISTED,
    CachingType,
    CardInfo,
    Escape,
    MapFlags,
    RegisterFd,
    RmMapMemory,
    request_of,
)
from exosuit.silicon.nvidia.limits import sm_of
from exosuit.silicon.nvidia.rm_controls import (
    FbInfoIndex,
    GidFlags,
    GpuIdInfo,
    GpuUuid,
    GrInfo,
    GrInfoIndex,
    InfoEntry,
)
from exosuit.units import KiB


def list_cards(client: KernelClient) -> list[CardInfo]:
    """The cards that the driver has, in the order of their places on the bus."""
    size = CARDS_LISTED * CardInfo.SIZE
    data = bytearray(size)
    request = request_of(Escape.CARD_INFO, size)
    client.counters.round_trips += 1
    try:
        client.nodes.ioctl(client.fd, request, data)
    except OSError as error:
        raise refusals.call_failed(Escape.CARD_INFO.name, error) from error
    cards = [CardInfo(data, at) for at in range(0, size, CardInfo.SIZE)]
    return sorted((card for card in cards if card.valid), key=_place)


def _place(card: CardInfo) -> tuple[int, int, int, int]:
    return card.pci.domain, card.pci.bus, card.pci.slot, card.pci.function


def choose_card(cards: Sequence[CardInfo], index: int) -> CardInfo:
    """Card `index`. Raises UsageError where the driver has none of that number."""
    if index >= len(cards):
        have = f"nvidia:0 to nvidia:{len(cards) - 1}" if cards else "none"
        raise UsageError(
            f"NVIDIA's kernel driver has no card nvidia:{index}",
            cause=f"it has {have}; cards that vfio or another driver holds are not among them",
            next="exosuit list",
            index=index,
        )
    return cards[index]


@dataclass
class Shown:
    """A mapping, and the file that it came through."""

    fd: int
    mapping: Mapping


class Gpu:
    """An open card. Owns its files and mappings; its objects are the client's."""

    def __init__(self, client: KernelClient, card: CardInfo) -> None:
        """Open the card's node and make its device objects."""
        self.client = client
        self.card = card
        self.path = f"/dev/nvidia{card.minor_number}"
        self._shown: list[Shown] = []
        self.fd = self._open_node()
        try:
            info = ask(client, client.client, GpuIdInfo.make(gpu_id=card.gpu_id))
            self.objects = make_device(client, info.device_instance)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Of its PCI function: `0000:01:00.0`."""
        pci = self.card.pci
        return f"{pci.domain:04x}:{pci.bus:02x}:{pci.slot:02x}.{pci.function}"

    def name(self) -> str:
        """`NVIDIA H200`."""
        answer = ask(self.client, self.objects.subdevice, self.client.branch.gpu_name.make())
        return answer.text.partition(b"\0")[0].decode("ascii", "replace")

    def uuid(self) -> bytes:
        """What unified memory knows the card by."""
        question = GpuUuid.make(flags=GidFlags(is_binary=True), length=16)
        return ask(self.client, self.objects.subdevice, question).uuid

    def sm_count(self) -> int:
        """SMs that this card has enabled."""
        return ask(self.client, self.objects.subdevice, self.client.branch.sm_order.make()).sm_count

    def graphics_info(self) -> dict[GrInfoIndex, int]:
        """SM version, and the architecture's sizes."""
        asked = b"".join(bytes(InfoEntry.make(index=index)) for index in GrInfoIndex)
        held, address = lend(asked)
        question = GrInfo.make(count=len(GrInfoIndex), address=address)
        ask(self.client, self.objects.subdevice, question)
        size = InfoEntry.SIZE
        return {index: InfoEntry(held, size * at).value for at, index in enumerate(GrInfoIndex)}

    def memory_bytes(self, index: FbInfoIndex) -> int:
        """A size of the card's memory."""
        question = self.client.branch.fb_info.make(count=1)
        question.entries[0].index = index
        answer = ask(self.client, self.objects.subdevice, question)
        return answer.entries[0].value * KiB

    def show(self, handle: int, size: int, *, system: bool = False) -> Mapping:
        """Memory or registers of an object in this process, until the card is closed.

        How it is cached is the kernel's choice alone (OGKM `escape.c`): registers are not, the
        card's memory is write-combined.

        system  it is the host's memory, which the control node shows
        """
        fd = self.client.open(CONTROL_NODE) if system else self._open_node()
        try:
            record = RmMapMemory.make(
                client=self.client.client,
                device=self.objects.device,
                memory_handle=handle,
                length=size,
                flags=MapFlags(caching_type=CachingType.DEFAULT),
                fd=fd,
            )
            answer = self.client.escape(Escape.RM_MAP_MEMORY, record)
            if answer.status:
                raise refusals.refused(f"mapping object {handle:#x}", answer.status)
            mapping = self.client.map(f"object {handle:#x}", fd, size)
        except BaseException:
            self._close(fd)
            raise
        self._shown.append(Shown(fd, mapping))
        return mapping

    def close(self) -> None:
        """Close every file and mapping. Idempotent."""
        for shown in self._shown:
            shown.mapping.close()
            self._close(shown.fd)
        self._shown.clear()
        if self.fd >= 0:
            self._close(self.fd)
            self.fd = -1

    def _open_node(self) -> int:
        """The card's node, tied to the client."""
        fd = self.client.open(self.path)
        try:
            self.client.escape(Escape.REGISTER_FD, RegisterFd.make(control_fd=self.client.fd), fd)
        except BaseException:
            self._close(fd)
            raise
        return fd

    def _close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self.client.nodes.close(fd)


def target_of(version: int, name: str) -> str:
    """`sm_90` for the SM version 0x900. Raises UnsupportedCard where it is not known."""
    sm = sm_of(version)
    if sm is None:
        raise UnsupportedCard(
            f"{name} has SM version {version:#x}, which exosuit does not know",
            cause="it is older than Ampere, or newer than this version",
            next="exosuit doctor --report FILE",
            version=version,
        )
    return f"sm_{sm}"
