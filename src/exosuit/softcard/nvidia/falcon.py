"""A falcon and the RISC-V core beside it: reset, the DMA that brings code in, the start.

Bytes are really brought into IMEM and DMEM, from what the chosen target understands, so that the
program which is then "run" finds what its host put there. What such a program does is the caller's
(`Program`): the boot ROM here checks only what every boot ROM checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from exosuit.silicon.nvidia.falcon import (
    BLOCK_BYTES,
    Algorithm,
    BootControl,
    Cpuctl,
    DmaCommand,
    Dmactl,
    DmaSize,
    EngineReset,
    FbifControl,
    Hwcfg2,
    MemoryPort,
    RiscvCpuctl,
    TransferConfig,
    TransferTarget,
)
from exosuit.silicon.nvidia.falcon import (
    Falcon as Registers,
)
from exosuit.softcard.host import HostFault
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.registers import Refuse, RegisterFile

IMEM_BYTES = DMEM_BYTES = 0x1_0000
SCRUB_READS = 2
"""So many times HWCFG2 says that memory is being scrubbed after a reset."""


class Program(Protocol):
    """What the falcon runs when it is started."""

    def __call__(self, falcon: Falcon) -> None: ...


class Falcon:
    """One falcon at its base.

    program    run at a start
    is_silent  whether firmware has stopped answering, by the schedule
    on_reset   called after the engine's reset has begun
    """

    def __init__(
        self,
        name: str,
        registers: RegisterFile,
        base: int,
        memory: memoryview,
        bus: Bus,
        refuse: Refuse,
        program: Program,
        is_silent: Callable[[], bool],
        on_reset: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._registers = registers
        self._memory = memory
        self._bus = bus
        self._refuse = refuse
        self._program = program
        self._is_silent = is_silent
        self._on_reset = on_reset
        self._prefix = f"{name}_"
        registers.declare(Registers, base, self._prefix)
        read, write = self._on_read, self._on_write
        read("HWCFG2", lambda index, stored: self._hwcfg2())
        read("HWCFG", lambda index, stored: IMEM_BYTES // 256)
        read("CPUCTL", lambda index, stored: Cpuctl(halted=self.halted, alias_en=self.alias))
        read("RISCV_CPUCTL", lambda index, stored: RiscvCpuctl(active_stat=self.riscv_active))
        read("RISCV_BCR_CTRL", lambda index, stored: self._boot_control(stored))
        read("DMATRFCMD", lambda index, stored: DmaCommand(idle=True))
        write("ENGINE", self._engine)
        write("CPUCTL", self._start)
        write("CPUCTL_ALIAS", self._start)
        write("DMATRFCMD", self._transfer)
        write("RISCV_BCR_CTRL", self._select)
        read("DMEMD", self._read_dmem)
        read("IMEMD", self._read_imem)
        write("DMEMD", self._write_dmem)
        write("IMEMD", self._write_imem)
        self.power_on()

    def power_on(self) -> None:
        """Out of reset, nothing loaded."""
        self.imem = bytearray(IMEM_BYTES)
        self.dmem = bytearray(DMEM_BYTES)
        self.secure: set[int] = set()
        self.halted = True
        self.alias = False
        self.riscv_active = False
        self.riscv_selected = False
        self.was_reset = False
        self._held = False
        self._scrubbing = 0
        self._mode_valid = False

    # What programs read and write.

    def get(self, name: str, index: int = 0) -> int:
        return self._registers.get(self._prefix + name, index)

    def put(self, name: str, value: int, index: int = 0) -> None:
        self._registers.put(self._prefix + name, value, index)

    @property
    def mailbox(self) -> int:
        """Both mailboxes as one number."""
        return self.get("MAILBOX0") | self.get("MAILBOX1") << 32

    # Registers.

    def _on_read(self, name: str, handler: Callable[[int, int], int]) -> None:
        self._registers.on_read(self._prefix + name, handler)

    def _on_write(self, name: str, handler: Callable[[int, int], int]) -> None:
        self._registers.on_write(self._prefix + name, handler)

    def _engine(self, index: int, value: int) -> int:
        if EngineReset(value).reset:
            self.power_on()
            self._held = True
            self.put("MAILBOX0", 0)
            self.put("MAILBOX1", 0)
            self._on_reset()
        elif self._held:
            self._held = False
            self.was_reset = True
            self._scrubbing = SCRUB_READS
        return value

    def _hwcfg2(self) -> int:
        scrubbing = self._scrubbing > 0
        self._scrubbing = max(self._scrubbing - 1, 0)
        return Hwcfg2(riscv=True, mem_scrubbing=scrubbing, reset_ready=not self._held)

    def _select(self, index: int, value: int) -> int:
        control = BootControl(value)
        if self._held or self._scrubbing:
            self._refuse(f"a choice of the core of {self.name} during its reset")
        self.riscv_selected = bool(control.core_select)
        self._mode_valid = False
        return value

    def _boot_control(self, stored: int) -> int:
        valid, self._mode_valid = self._mode_valid, True
        return BootControl(stored).replace(valid=valid)

    # Memories.

    def _transfer(self, index: int, value: int) -> int:
        command = DmaCommand(value)
        why = self._why_no_transfer(command)
        if why:
            self._refuse(f"a transfer of {self.name} while {why}")
            return value
        target = self.imem if command.imem else self.dmem
        source = self.get("DMATRFBASE") << 8 | (self.get("DMATRFBASE1") & 0x1FF) << 40
        source += self.get("DMATRFFBOFFS")
        to = self.get("DMATRFMOFFS")
        if to + BLOCK_BYTES > len(target):
            self._refuse(f"a transfer to {to:#x} of {self.name}, past its memory")
            return value
        data = self._fetch(TransferConfig(self.get("FBIF_TRANSCFG", command.ctxdma)), source)
        target[to : to + BLOCK_BYTES] = data
        if command.imem and command.sec:
            self.secure.add(to // BLOCK_BYTES)
        return value

    def _why_no_transfer(self, command: DmaCommand) -> str:
        config = TransferConfig(self.get("FBIF_TRANSCFG", command.ctxdma))
        if self._held or self._scrubbing or not self.was_reset:
            return "it has not been reset"
        if self.riscv_selected:
            return "its RISC-V core is selected"
        if command.write or command.size != DmaSize.BYTES_256:
            return "it is one of a kind that nobody makes here"
        if Dmactl(self.get("DMACTL")).require_ctx:
            return "a context is required"
        if not config.physical or not FbifControl(self.get("FBIF_CTL")).allow_phys_no_ctx:
            return "physical addresses are not allowed"
        return ""

    def _fetch(self, config: TransferConfig, source: int) -> bytes:
        """A block; what does not answer is all ones."""
        if config.target == TransferTarget.VRAM:
            if source + BLOCK_BYTES > len(self._memory):
                self._refuse(f"a transfer of {self.name} from {source:#x}, past local memory")
                return b"\xff" * BLOCK_BYTES
            return bytes(self._memory[source : source + BLOCK_BYTES])
        try:
            return self._bus.read(source, BLOCK_BYTES)
        except HostFault:
            return b"\xff" * BLOCK_BYTES

    def _port(self, name: str, index: int) -> int:
        """Where a memory port points."""
        port = MemoryPort(self.get(name, index))
        return (port.block << 8 | port.offset << 2) % IMEM_BYTES

    def _write_word(self, memory: bytearray, name: str, index: int, value: int) -> int:
        """Store a dword; the port moves on if it was told to."""
        at = self._port(name, index)
        memory[at : at + 4] = value.to_bytes(4, "little")
        port = MemoryPort(self.get(name, index))
        if port.increment_on_write:
            at += 4
            self.put(name, port.replace(block=at >> 8, offset=at >> 2 & 0x3F), index)
        return value

    def _read_dmem(self, index: int, stored: int) -> int:
        at = self._port("DMEMC", index)
        return int.from_bytes(self.dmem[at : at + 4], "little")

    def _read_imem(self, index: int, stored: int) -> int:
        at = self._port("IMEMC", index)
        return int.from_bytes(self.imem[at : at + 4], "little")

    def _write_dmem(self, index: int, value: int) -> int:
        return self._write_word(self.dmem, "DMEMC", index, value)

    def _write_imem(self, index: int, value: int) -> int:
        return self._write_word(self.imem, "IMEMC", index, value)

    # The start.

    def _start(self, index: int, value: int) -> int:
        if not Cpuctl(value).startcpu:
            return 0
        if self._held or self._scrubbing:
            self._refuse(f"a start of {self.name} during its reset")
            return 0
        if self.riscv_selected:
            self._refuse(f"a start of {self.name}'s falcon while its RISC-V core is selected")
            return 0
        if self._is_silent():
            self.halted = False
            return 0
        self.halted = True
        self._program(self)
        return 0

    def why_not_signed(self, engine_mask: int, ucode_id: int) -> str:
        """Why the boot ROM would not run signed code as it lies in memory; "" if it would."""
        entry = self.get("BOOTVEC")
        signature = self.get("BROM_PARAADDR")
        if self.get("MOD_SEL") & 0xFF != Algorithm.RSA3K:
            return "RSA-3072 is not chosen"
        if self.get("BROM_ENGIDMASK") != engine_mask:
            return f"its engine mask is {self.get('BROM_ENGIDMASK'):#x}"
        if self.get("BROM_CURR_UCODE_ID") & 0xFF != ucode_id:
            return f"its ucode id is {self.get('BROM_CURR_UCODE_ID')}"
        if not self.secure:
            return "no secure code was brought in"
        if entry % BLOCK_BYTES:
            return f"it would begin at {entry:#x}"
        if signature + 384 > DMEM_BYTES or not any(self.dmem[signature : signature + 384]):
            return f"there is no signature at {signature:#x}"
        return ""
