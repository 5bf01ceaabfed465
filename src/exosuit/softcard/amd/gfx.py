"""The graphics block: banks chosen by GRBM, what the RLC has started, resets of engines.

Registers of queues and VMIDs exist once per bank but at one place; writing GRBM_GFX_CNTL swaps
which bank stands there.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd.gfx import (
    DoorbellRange,
    GrbmSelect,
    GrbmSoftReset,
    MecRs64Control,
    RlcBootloadStatus,
    RlcControl,
    RlcSafeMode,
)
from exosuit.silicon.amd.hqd import Hqd
from exosuit.softcard.registers import Refuse, RegisterFile

QueueKey = tuple[int, int, int]
"""Micro-engine, pipe, queue."""

QUEUE_BANKED = tuple(Hqd.REGISTERS)
VMID_BANKED = ("SH_MEM_CONFIG", "SH_MEM_BASES")
PIPE_BANKED = (
    "CP_PFP_PRGRM_CNTR_START",
    "CP_PFP_PRGRM_CNTR_START_HI",
    "CP_ME_PRGRM_CNTR_START",
    "CP_ME_PRGRM_CNTR_START_HI",
    "CP_MEC_RS64_PRGRM_CNTR_START",
    "CP_MEC_RS64_PRGRM_CNTR_START_HI",
)


class Bank:
    """Registers that exist once per key and show one of them."""

    def __init__(self, registers: RegisterFile, names: tuple[str, ...]) -> None:
        self._registers = registers
        self._names = names
        self._shown: tuple[int, ...] = ()
        self._kept: dict[tuple[int, ...], list[int]] = {}

    def show(self, key: tuple[int, ...]) -> None:
        """Put the values of one key in the registers' places, 0 for one never seen."""
        if key == self._shown:
            return
        self._kept[self._shown] = [self._registers.get(name) for name in self._names]
        values = self._kept.get(key, [0] * len(self._names))
        for name, value in zip(self._names, values, strict=True):
            self._registers.put(name, value)
        self._shown = key

    def get(self, key: tuple[int, ...], name: str) -> int:
        """A register of one key, shown or not."""
        if key == self._shown:
            return self._registers.get(name)
        values = self._kept.get(key)
        return values[self._names.index(name)] if values else 0

    def put(self, key: tuple[int, ...], name: str, value: int) -> None:
        """Set a register of one key, shown or not."""
        if key == self._shown:
            self._registers.put(name, value)
            return
        values = self._kept.setdefault(key, [0] * len(self._names))
        values[self._names.index(name)] = value

    def clear(self, shown: tuple[int, ...]) -> None:
        self._kept.clear()
        self._shown = shown


class Gfx:
    """GRBM, RLC and the switches of CP and MEC.

    drop_compute  called when what the MEC runs is reset
    drop_copies   called when the copy engine is
    """

    def __init__(
        self,
        registers: RegisterFile,
        refuse: Refuse,
        *,
        drop_compute: Callable[[], None],
        drop_copies: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._refuse = refuse
        self._drop_compute = drop_compute
        self._drop_copies = drop_copies
        self.queues = Bank(registers, QUEUE_BANKED)
        self._vmids = Bank(registers, VMID_BANKED)
        self._pipes = Bank(registers, PIPE_BANKED)
        registers.on_write("GRBM_GFX_CNTL", self._select)
        registers.on_write("GRBM_SOFT_RESET", self._soft_reset)
        registers.on_write("CP_MEC_RS64_CNTL", self._mec_control)
        registers.on_write("RLC_SAFE_MODE", self._safe_mode)
        self.power_on()

    def power_on(self) -> None:
        self.is_started = False
        self.queues.clear((0, 0, 0))
        self._vmids.clear((0,))
        self._pipes.clear((0, 0))

    def start(self) -> None:
        """The RLC has loaded every engine's firmware."""
        self.is_started = True
        status = RlcBootloadStatus(bootload_complete=True)
        self._registers.put("RLC_RLCS_BOOTLOAD_STATUS", status)

    @property
    def selected(self) -> QueueKey:
        """The bank of queue registers that is shown."""
        chosen = GrbmSelect(self._registers.get("GRBM_GFX_CNTL"))
        return chosen.meid, chosen.pipeid, chosen.queueid

    def why_mec_stands(self) -> str:
        """Why pipe 0 of the MEC does not run, or nothing."""
        control = MecRs64Control(self._registers.get("CP_MEC_RS64_CNTL"))
        if not self.is_started:
            return "the RLC has not loaded the engines' firmware"
        if not RlcControl(self._registers.get("RLC_CNTL")).rlc_enable_f32:
            return "the RLC is off"
        if control.mec_halt or control.mec_pipe0_reset or not control.mec_pipe0_active:
            return f"the MEC is halted, in reset or not active ({control.explain()})"
        if not self._pipes.get((1, 0), "CP_MEC_RS64_PRGRM_CNTR_START"):
            return "the MEC's program counter was never set"
        return ""

    def in_mec_range(self, slot: int) -> bool:
        """Whether the doorbell in this 64-bit slot is one that the MEC hears."""
        low = DoorbellRange(self._registers.get("CP_MEC_DOORBELL_RANGE_LOWER")).doorbell
        high = DoorbellRange(self._registers.get("CP_MEC_DOORBELL_RANGE_UPPER")).doorbell
        return low <= 2 * slot <= high

    def why_shaders_stand(self) -> str:
        """Why programs of VMID 0 cannot run, or nothing."""
        config = self._vmids.get((0,), "SH_MEM_CONFIG")
        bases = self._vmids.get((0,), "SH_MEM_BASES")
        return "" if config and bases else "SH_MEM of VMID 0 was never set"

    def _select(self, index: int, value: int) -> int:
        chosen = GrbmSelect(value)
        self.queues.show((chosen.meid, chosen.pipeid, chosen.queueid))
        self._vmids.show((chosen.vmid,))
        self._pipes.show((chosen.meid, chosen.pipeid))
        return value

    def _soft_reset(self, index: int, value: int) -> int:
        wanted = GrbmSoftReset(value)
        if wanted.soft_reset_cp or wanted.soft_reset_cpc or wanted.soft_reset_gfx:
            self._drop_compute()
        if wanted.soft_reset_sdma0:
            self._drop_copies()
        return value

    def _mec_control(self, index: int, value: int) -> int:
        if MecRs64Control(value).mec_pipe0_reset:
            self._drop_compute()
        return value

    def _safe_mode(self, index: int, value: int) -> int:
        if not self.is_started:
            self._refuse("RLC_SAFE_MODE before the RLC runs")
            return value  # nobody clears `cmd`
        return RlcSafeMode(value).replace(cmd=False)
