"""The CPU sequencer: register accesses that firmware asks the host to make while it boots.

The list comes in an event, as dwords; nothing in it is believed further than that its registers lie
in BAR 0. `REG_MODIFY` and `REG_POLL` give the mask before the value.

Sources: open-gpu-kernel-modules 570.144 `rmgspseq.h`, `kernel_gsp.c`
(kgspExecuteSequencerBuffer), `kernel_gsp_tu102.c` (kgspExecuteSequencerCommand_TU102).
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.clock import Clock
from exosuit.driver.boot import poll
from exosuit.driver.nvidia.bare_metal.falcon import FalconCore
from exosuit.driver.nvidia.bare_metal.registers import Registers
from exosuit.errors import BootFailed
from exosuit.silicon.nvidia.gsp import SEQUENCER_ARGUMENTS, Sequencer
from exosuit.silicon.nvidia.rpc import RunSequencer

_HANDOFF_S = 4.0
_LONGEST_DELAY_S = 1.0
_LONGEST_POLL_S = 10.0


class CpuSequencer:
    """Runs the lists of one card's firmware.

    give_arguments  writes the address of the libos arguments into the GSP's mailboxes
    """

    def __init__(
        self,
        registers: Registers,
        gsp: FalconCore,
        sec2: FalconCore,
        clock: Clock,
        give_arguments: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._gsp = gsp
        self._sec2 = sec2
        self._clock = clock
        self._give_arguments = give_arguments
        self.saved: dict[int, int] = {}

    def run(self, payload: bytes) -> None:
        """Run one list. Raises BootFailed where it is damaged, or a poll does not come true."""
        if len(payload) < RunSequencer.SIZE:
            raise _damaged(f"it has {len(payload)} bytes")
        count = RunSequencer(payload).command_dwords
        words = memoryview(payload[RunSequencer.SIZE :])
        if 4 * count > len(words):
            raise _damaged(f"it says that it has {count} dwords, {len(words) // 4} came")
        commands = words[: 4 * count].cast("I")
        at = 0
        while at < count:
            try:
                command = Sequencer(commands[at])
            except ValueError:
                raise _damaged(f"command {commands[at]:#x}") from None
            end = at + 1 + SEQUENCER_ARGUMENTS[command]
            if end > count:
                raise _damaged(f"{command.name} is cut off")
            self._execute(command, list(commands[at + 1 : end]))
            at = end

    def _execute(self, command: Sequencer, words: list[int]) -> None:
        bar = self._registers.bar
        match command:
            case Sequencer.REG_WRITE:
                bar.write32(words[0], words[1])
            case Sequencer.REG_MODIFY:
                address, mask, value = words
                bar.write32(address, bar.read32(address) & ~mask | value & mask)
            case Sequencer.REG_POLL:
                address, mask, value, timeout_ms, error = words
                poll(
                    lambda: bar.read32(address), lambda seen: seen & mask == value, self._clock,
                    min(timeout_ms / 1e3, _LONGEST_POLL_S) or _HANDOFF_S,
                    f"register {address:#x} & {mask:#x} == {value:#x} (its error {error:#x})",
                    self._registers.check_alive,
                )  # fmt: skip
            case Sequencer.DELAY_US:
                self._clock.sleep(min(words[0] / 1e6, _LONGEST_DELAY_S))
            case Sequencer.REG_STORE:
                self.saved[words[1]] = bar.read32(words[0])
            case Sequencer.CORE_RESET:
                self._gsp.reset()
                self._gsp.let_dma()
            case Sequencer.CORE_START:
                self._gsp.start()
            case Sequencer.CORE_WAIT_FOR_HALT:
                self._gsp.wait_halted("the firmware's own step")
            case Sequencer.CORE_RESUME:
                self._resume()

    def _resume(self) -> None:
        """Let SEC2 bring the GSP back into its firmware."""
        self._gsp.reset_into_riscv()
        self._give_arguments()
        self._sec2.start()
        registers = self._registers
        poll(
            registers.bus.BSI_SECURE_SCRATCH_14.read, lambda seen: seen.boot_stage_3_handoff,
            self._clock, _HANDOFF_S, "SEC2: the hand-over to the GSP", registers.check_alive, 1e-4,
        )  # fmt: skip
        mailbox = int(registers.sec2.MAILBOX0.read())
        if mailbox or not registers.gsp.RISCV_CPUCTL.read().active_stat:
            raise BootFailed(
                f"SEC2 did not bring the GSP back (mailbox {mailbox:#x})",
                cause="the card was only half reset, or its firmware does not suit it",
                next="switch the enclosure off and on, then  exosuit doctor --report FILE",
                mailbox0=mailbox,
            )


def _damaged(reason: str) -> BootFailed:
    return BootFailed(
        f"the firmware's list of register accesses is damaged: {reason}",
        cause="the link changes data, or the firmware is of another release",
        next="exosuit setup --yes;  if it stays, exosuit doctor --report FILE",
        reason=reason,
    )
