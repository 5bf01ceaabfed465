"""PM4: what the MEC does with each packet of a compute queue.

Dispatches between two barriers (an end-of-pipe event, a partial flush) may overlap on hardware in
any way. Here they are collected and run at the barrier, last one first: a driver that left out a
barrier between two of them gets wrong numbers, as it some day would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from exosuit.datasheet import UnknownPacket
from exosuit.silicon.amd import pm4
from exosuit.silicon.amd.compute import CODE_SHIFT, Compute, sh_index
from exosuit.silicon.amd.hub import Client
from exosuit.silicon.amd.ih import Client as Reporter
from exosuit.silicon.amd.ih import Source, SqContext0, SqContext1, SqEncoding, SqError
from exosuit.softcard.amd.caches import Caches
from exosuit.softcard.amd.ih import Ih
from exosuit.softcard.amd.isa.shaders import Dispatch, ShaderFault
from exosuit.softcard.amd.queue import Decoded, Outcome
from exosuit.softcard.amd.timeline import PACKET_NS, ticks
from exosuit.softcard.amd.tlb import Tlb
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.softcard.timeline import Cost, Slice, Timeline

SH_REGISTERS = 0x400
_SQ_ERRORS = {
    "illegal instruction": SqError.ILLEGAL_INSTRUCTION,
    "memory violation": SqError.MEMORY_VIOLATION,
}
_MASK = 0xFFFF_FFFF


class Programs(Protocol):
    """Runs programs: blocks until all workgroups have ended. Raises ShaderFault."""

    def run(self, dispatch: Dispatch) -> Cost: ...


class Caller(Protocol):
    """The queue behind a processor: where buffers that a packet calls are put."""

    def call(
        self, packets: tuple[pm4.Pm4 | UnknownPacket, ...], *, chain: bool = False
    ) -> bool: ...


class Processor:
    """Obeys the packets of one queue.

    gc_base       first segment of the GC block in dwords
    charge        virtual time of a dispatch
    caller        gives the queue's execution
    can_release   whether the queue has an end-of-pipe buffer
    why_not       why programs cannot run, or nothing
    """

    def __init__(
        self,
        registers: RegisterFile,
        tlb: Tlb,
        ih: Ih,
        programs: Programs,
        decoded: Decoded[pm4.Pm4],
        timeline: Timeline,
        refuse: Refuse,
        slice: Slice,
        caches: Caches,
        expect_flushed: Callable[[str], None],
        *,
        gc_base: int,
        charge: Callable[[Cost], float],
        caller: Callable[[], Caller],
        can_release: bool,
        why_not: Callable[[], str],
    ) -> None:
        self._registers = registers
        self._tlb = tlb
        self._ih = ih
        self._programs = programs
        self._decoded = decoded
        self._timeline = timeline
        self._refuse = refuse
        self._slice = slice
        self._caches = caches
        self._expect_flushed = expect_flushed
        self._charge = charge
        self._caller = caller
        self._can_release = can_release
        self._why_not = why_not
        self._sh = [0] * SH_REGISTERS
        self._pending: list[Dispatch] = []
        self.obeyed = 0
        self.dispatches = 0
        self._at = {
            name: sh_index(description, gc_base) for name, description in Compute.REGISTERS.items()
        }
        self._known = {
            self._at[d.name] + word + index * d.stride // Compute.UNIT
            for d in Compute.REGISTERS.values()
            for index in range(d.count)
            for word in range(d.kind.WIDTH // 32)
        }

    def obey(self, packet: pm4.Pm4 | UnknownPacket) -> Outcome:
        """Do what a packet asks."""
        self._timeline.spend(PACKET_NS)
        outcome = self._obey(packet)
        if outcome is Outcome.DONE:
            self.obeyed += 1
        return outcome

    def finish(self) -> tuple[bool, bool]:
        """The queue has run dry: so do the dispatches that nothing waits for.

        Gives whether the queue is stuck at one of them, and whether some are left for later.
        """
        outcome = self._barrier()
        return outcome is Outcome.STUCK, outcome is Outcome.PAUSED

    def _obey(self, packet: pm4.Pm4 | UnknownPacket) -> Outcome:
        match packet:
            case pm4.SetShReg():
                return self._set_sh(packet)
            case pm4.DispatchDirect():
                return self._dispatch(packet)
            case pm4.AcquireMem():
                self._caches.acquire(packet.caches)
                return Outcome.DONE
            case pm4.Nop():
                return Outcome.DONE
            case pm4.ReleaseMem():
                return self._release(packet)
            case pm4.WaitRegMem():
                return self._wait(packet)
            case pm4.EventWrite():
                if packet.event.event_type == pm4.Event.CS_PARTIAL_FLUSH:
                    return self._barrier()
                return Outcome.DONE
            case pm4.IndirectBuffer():
                return self._call(packet)
            case pm4.WriteData():
                return self._write(packet)
            case pm4.CopyData():
                return self._copy(packet)
            case pm4.SetUconfigReg():
                first = pm4.UCONFIG_WINDOW + packet.register
                for index, value in enumerate(packet.rest.cast("I")):
                    self._registers.write32(4 * (first + index), value)
                return Outcome.DONE
            case _:
                self._refuse(f"{packet!r} in a compute queue")
                self._ih.report(Reporter.GRBM_CP, Source.CP_BAD_OPCODE)
                return Outcome.STUCK

    def _set_sh(self, packet: pm4.SetShReg) -> Outcome:
        values = packet.rest.cast("I")
        first = packet.register
        if first + len(values) > SH_REGISTERS:
            self._refuse(f"SET_SH_REG of {len(values)} registers from {first:#x}")
            return Outcome.STUCK
        for index in range(first, first + len(values)):
            if index not in self._known:
                self._refuse(f"SET_SH_REG of {index:#x}, where no register is declared")
        self._sh[first : first + len(values)] = values
        return Outcome.DONE

    def _dispatch(self, packet: pm4.DispatchDirect) -> Outcome:
        initiator = packet.initiator
        if not initiator.compute_shader_en:
            self._refuse("DISPATCH_DIRECT without COMPUTE_SHADER_EN")
            return Outcome.DONE
        if reason := self._why_not():
            self._refuse(f"DISPATCH_DIRECT while {reason}")
        threads = self._three("COMPUTE_NUM_THREAD_X")
        groups = packet.x, packet.y, packet.z
        if initiator.use_thread_dimensions:
            groups = tuple(-(-g // max(t, 1)) for g, t in zip(groups, threads, strict=True))
        start = (0, 0, 0) if initiator.force_start_at_000 else self._three("COMPUTE_START_X")
        first = self._at["COMPUTE_USER_DATA"]
        dispatch = Dispatch(
            entry=self._pair("COMPUTE_PGM") << CODE_SHIFT,
            rsrc1=self._one("COMPUTE_PGM_RSRC1"),
            rsrc2=self._one("COMPUTE_PGM_RSRC2"),
            rsrc3=self._one("COMPUTE_PGM_RSRC3"),
            user_data=tuple(self._sh[first : first + 16]),
            threads=threads,
            groups=(groups[0], groups[1], groups[2]),
            start=start,
            scratch_base=self._pair("COMPUTE_DISPATCH_SCRATCH_BASE") << CODE_SHIFT,
            tmpring=self._one("COMPUTE_TMPRING_SIZE"),
            wave32=initiator.cs_w32_en,
        )
        if 0 in threads:
            self._refuse(f"a dispatch of workgroups of {threads} work-items")
            return Outcome.DONE
        if 0 not in groups:
            self._caches.expect_fresh()
            self._pending.append(dispatch)
        return Outcome.DONE

    def _barrier(self) -> Outcome:
        """Every dispatch so far ends, the last one first."""
        while self._pending:
            if self._slice.is_over:
                return Outcome.PAUSED
            self._expect_flushed("a dispatch")
            dispatch = self._pending.pop()
            try:
                cost = self._programs.run(dispatch)
            except ShaderFault as fault:
                error = _SQ_ERRORS.get(fault.kind, SqError.ILLEGAL_INSTRUCTION)
                self._ih.report(
                    Reporter.GFX,
                    Source.SQ_MESSAGE,
                    contexts=(
                        SqContext0(error=error),
                        SqContext1(encoding=SqEncoding.ERROR),
                    ),
                )
                self._refuse(f"a program: {fault}")
                return Outcome.STUCK  # the wave never ends, so nothing behind it begins
            self.dispatches += 1
            self._caches.program_ended()
            self._timeline.spend(self._charge(cost))
        return Outcome.DONE

    def _release(self, packet: pm4.ReleaseMem) -> Outcome:
        if not self._can_release:
            self._refuse("RELEASE_MEM in a queue without an end-of-pipe buffer")
            return Outcome.STUCK
        outcome = self._barrier()
        if outcome is not Outcome.DONE:
            return outcome
        self._caches.release(packet.control)
        destination = packet.destination
        match destination.data_sel:
            case pm4.ReleaseDatum.LOW_32:
                self._store(packet.address, (packet.value & _MASK).to_bytes(4, "little"))
            case pm4.ReleaseDatum.VALUE_64:
                self._store(packet.address, packet.value.to_bytes(8, "little"))
            case pm4.ReleaseDatum.GPU_CLOCK:
                self._store(packet.address, ticks(self._timeline).to_bytes(8, "little"))
            case _:
                pass
        if destination.int_sel == pm4.ReleaseInterrupt.AFTER_CONFIRM:
            self._ih.report(
                Reporter.GRBM_CP,
                Source.CP_END_OF_PIPE,
                contexts=(packet.interrupt_context, 0),
            )
        return Outcome.DONE

    def _wait(self, packet: pm4.WaitRegMem) -> Outcome:
        control = packet.control
        if control.mem_space:
            value = int.from_bytes(self._load(packet.address & ~3, 4), "little")
        elif control.operation == pm4.WaitOperation.WRITE_THEN_WAIT:
            self._registers.write32(4 * (packet.address & _MASK), packet.reference)
            value = self._registers.read32(4 * (packet.address >> 32))
        else:
            value = self._registers.read32(4 * (packet.address & _MASK))
        holds = compare(control.function, value & packet.mask, packet.reference)
        return Outcome.DONE if holds else Outcome.WAITING

    def _call(self, packet: pm4.IndirectBuffer) -> Outcome:
        control = packet.control
        if control.vmid or packet.address % 4 or not control.size:
            self._refuse(f"an indirect buffer: {packet!r}")
            return Outcome.STUCK
        stream = self._load(packet.address, 4 * control.size)
        if not self._caller().call(self._decoded(stream), chain=control.chain):
            self._refuse("indirect buffers within indirect buffers")
            return Outcome.STUCK
        return Outcome.DONE

    def _write(self, packet: pm4.WriteData) -> Outcome:
        control = packet.control
        if control.dst_sel == pm4.WriteTarget.REGISTER:
            for index, value in enumerate(packet.rest.cast("I")):
                offset = 0 if control.one_address else index
                self._registers.write32(4 * (packet.address + offset), value)
            return Outcome.DONE
        data = bytes(packet.rest)
        self._store(packet.address, data[-4:] if control.one_address else data)
        return Outcome.DONE

    def _copy(self, packet: pm4.CopyData) -> Outcome:
        control = packet.control
        size = 8 if control.count_sel else 4
        match control.src_sel:
            case pm4.CopySource.REGISTER:
                data = self._registers.read32(4 * packet.source).to_bytes(size, "little")
            case pm4.CopySource.L2 | pm4.CopySource.MEMORY_OBSOLETE:
                data = self._load(packet.source, size)
            case pm4.CopySource.IMMEDIATE:
                data = packet.source.to_bytes(8, "little")[:size]
            case pm4.CopySource.GPU_CLOCK | pm4.CopySource.SYSTEM_CLOCK:
                data = ticks(self._timeline).to_bytes(8, "little")[:size]
            case _:
                self._refuse(f"COPY_DATA from {control.src_sel}")
                data = bytes(size)
        match control.dst_sel:
            case pm4.CopyTarget.L2 | pm4.CopyTarget.MEMORY_OBSOLETE:
                self._store(packet.target, data)
            case pm4.CopyTarget.REGISTER:
                self._registers.write32(4 * packet.target, int.from_bytes(data[:4], "little"))
            case _:
                self._refuse(f"COPY_DATA to {control.dst_sel}")
        return Outcome.DONE

    def _load(self, address: int, size: int) -> bytes:
        return self._tlb.read(address, size, Client.CPC, self._timeline)

    def _store(self, address: int, data: bytes) -> None:
        self._tlb.write(address, data, Client.CPC, self._timeline)

    def _one(self, name: str) -> int:
        return self._sh[self._at[name]]

    def _pair(self, name: str) -> int:
        at = self._at[name]
        return self._sh[at] | self._sh[at + 1] << 32

    def _three(self, name: str) -> tuple[int, int, int]:
        at = self._at[name]
        mask = 0xFFFF if name == "COMPUTE_NUM_THREAD_X" else _MASK
        return self._sh[at] & mask, self._sh[at + 1] & mask, self._sh[at + 2] & mask


def compare(function: int, value: int, reference: int) -> bool:
    """The comparison of WAIT_REG_MEM and POLL_REGMEM."""
    match function:
        case pm4.Compare.LESS:
            return value < reference
        case pm4.Compare.LESS_EQUAL:
            return value <= reference
        case pm4.Compare.EQUAL:
            return value == reference
        case pm4.Compare.NOT_EQUAL:
            return value != reference
        case pm4.Compare.GREATER_EQUAL:
            return value >= reference
        case pm4.Compare.GREATER:
            return value > reference
        case _:
            return True
