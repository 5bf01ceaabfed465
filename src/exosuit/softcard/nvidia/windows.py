"""What stands behind the BARs of an NVIDIA card: registers and the windows among them, memory.

BAR 0 is registers, four bytes at a time, with three windows: the VBIOS, 1 MiB of local memory that
moves, and the page that programs may be given. BAR 1 is local memory, unless the firmware has put
address translation in front of it; BAR 3 is the firmware's own.
"""

from __future__ import annotations

from exosuit.link.function import Data
from exosuit.silicon.nvidia.boot import (
    PRAMIN_AT,
    PRAMIN_BYTES,
    VBIOS_AT,
    VBIOS_BYTES,
    BarBlock,
    BarBlockLow,
    Window,
)
from exosuit.silicon.nvidia.falcon import GSP, Falcon
from exosuit.softcard.nvidia.boot import Boot, Protected
from exosuit.softcard.registers import Refuse, RegisterFile

_ENGINE = GSP + Falcon.ENGINE.description.offset
_GSP_BYTES = 0x2000
_QUEUES_AT = 0xC00
"""From here on the GSP's page holds the doorbells of its queues."""


class RegisterWindow:
    """BAR 0; `vbios` is empty on chips whose host does not need it."""

    def __init__(
        self,
        registers: RegisterFile,
        vbios: bytes,
        memory: memoryview,
        protected: Protected,
        boot: Boot,
        refuse: Refuse,
    ) -> None:
        self._registers = registers
        self._vbios = memoryview(vbios)
        self._memory = memory
        self._protected = protected
        self._boot = boot
        self._refuse = refuse

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        if self._vbios and VBIOS_AT <= offset <= VBIOS_AT + VBIOS_BYTES - size:
            return bytes(self._vbios[offset - VBIOS_AT :][:size])
        if PRAMIN_AT <= offset <= PRAMIN_AT + PRAMIN_BYTES - size:
            at = self._through(offset, size, "a read")
            return b"\xff" * size if at is None else bytes(self._memory[at : at + size])
        if offset % 4 or size != 4:
            self._refuse(f"a read of {size} bytes at {offset:#x} of registers")
            return b"\xff" * size
        locked = self._locked(offset)
        value = self._registers.read32(offset) if locked is None else locked
        return value.to_bytes(4, "little")

    def write(self, offset: int, data: Data) -> None:
        size = len(data)
        if PRAMIN_AT <= offset <= PRAMIN_AT + PRAMIN_BYTES - size:
            at = self._through(offset, size, "a write")
            if at is not None:
                self._memory[at : at + size] = data
        elif offset % 4 or size != 4:
            self._refuse(f"a write of {size} bytes at {offset:#x} of registers")
        elif self._boot.is_locked and GSP <= offset < GSP + _QUEUES_AT and offset != _ENGINE:
            self._refuse(f"a write at {offset:#x}, of a core that the host is locked out of")
        else:
            self._registers.write32(offset, int.from_bytes(data, "little"))

    def _through(self, offset: int, size: int, what: str) -> int | None:
        """Where in local memory a byte of the moving window is."""
        window = Window(self._registers.get("BAR0_WINDOW"))
        at = (window.base << 16) + offset - PRAMIN_AT
        if at + size > len(self._memory):
            self._refuse(f"{what} at {at:#x} through the window, past the end of local memory")
            return None
        if not self._protected.is_free(at, size):
            self._refuse(f"{what} at {at:#x} through the window, in protected memory")
            return None
        return at

    def _locked(self, offset: int) -> int | None:
        """What a read of the GSP's registers finds before its firmware lets the host in."""
        if not GSP <= offset < GSP + _GSP_BYTES:
            return None
        return self._boot.read_locked(offset - GSP)


class MemoryWindow:
    """BAR 1.

    has_block_low  whether a second register may put translation before it
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: memoryview,
        protected: Protected,
        refuse: Refuse,
        *,
        has_block_low: bool,
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._protected = protected
        self._refuse = refuse
        self._has_block_low = has_block_low
        self._is_open = True
        names = ("BAR1_BLOCK", "BAR1_BLOCK_LOW")[: 1 + has_block_low]
        for name in names:
            registers.on_write(name, lambda index, value, name=name: self._blocks(name, value))

    def close(self) -> None:
        """The firmware takes it: what the host reads there is translated from now on."""
        self._registers.put("BAR1_BLOCK", BarBlock(pointer=1, is_virtual=True))
        if self._has_block_low:
            self._registers.put("BAR1_BLOCK_LOW", BarBlockLow(pointer=1, is_virtual=True))
        self._is_open = False

    def power_on(self) -> None:
        """Nothing is translated."""
        self._is_open = True

    def _blocks(self, register: str, value: int) -> int:
        """One of the registers is written; all of both must be 0."""
        self._registers.put(register, value)
        names = ("BAR1_BLOCK", "BAR1_BLOCK_LOW")[: 1 + self._has_block_low]
        self._is_open = not any(self._registers.get(name) for name in names)
        return value

    def view(self, offset: int, size: int) -> memoryview | None:
        return self._memory[offset : offset + size] if self._why_not(offset, size) == "" else None

    def read(self, offset: int, size: int) -> bytes:
        why = self._why_not(offset, size)
        if why:
            self._refuse(f"a read of {size} bytes at {offset:#x} of BAR 1, {why}")
            return b"\xff" * size
        return bytes(self._memory[offset : offset + size])

    def write(self, offset: int, data: Data) -> None:
        why = self._why_not(offset, len(data))
        if why:
            self._refuse(f"a write of {len(data)} bytes at {offset:#x} of BAR 1, {why}")
            return
        self._memory[offset : offset + len(data)] = data

    def _why_not(self, offset: int, size: int) -> str:
        if not self._is_open:
            return "which is translated"
        if not self._protected.is_free(offset, size):
            return "which is protected, or not local memory"
        return ""


class InstanceWindow:
    """BAR 3: nobody but a kernel driver's own page tables opens it."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        self._refuse(f"a read at {offset:#x} of BAR 3, which leads nowhere")
        return b"\xff" * size

    def write(self, offset: int, data: Data) -> None:
        self._refuse(f"a write at {offset:#x} of BAR 3, which leads nowhere")
