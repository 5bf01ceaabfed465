"""The compute engine: what its methods set, uploads, and grids from QMD to QMD.

A grid that is sent may run beside one that was sent before; only the end of a chain's link starts
the next. On a late card grids begin last, and in the opposite order, unless something waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from exosuit.silicon.nvidia.classes import ComputeClass
from exosuit.silicon.nvidia.compute import (
    QMD_SHIFT,
    Compute,
    DmaCompletion,
    InlineLaunch,
    InvalidateShaderCaches,
    Pcas2,
    PcasAction,
)
from exosuit.silicon.nvidia.qmd import POINTER_SHIFT
from exosuit.softcard.nvidia.executor.caches import Caches
from exosuit.softcard.nvidia.executor.faults import Engine, LaunchFault, MethodFault, Stopped
from exosuit.softcard.nvidia.executor.launch import Launcher, Settings
from exosuit.softcard.nvidia.executor.memory import GpuMemory
from exosuit.softcard.nvidia.executor.methods import Methods
from exosuit.softcard.registers import Refuse
from exosuit.units import GiB

_SCHEDULES = (
    PcasAction.SCHEDULE,
    PcasAction.INVALIDATE_COPY_SCHEDULE,
    PcasAction.PREFETCH_SCHEDULE,
    PcasAction.INVALIDATE_PREFETCH_COPY_SCHEDULE,
)
_SCHEDULE_B = 2
"""SEND_SIGNALING_PCAS_B: bit 1."""
_MOST_INLINE = 1 << 20
_REPORTS = "report semaphores, which are not modelled: use SEM_EXECUTE or a QMD's release"


class ComputeEngine:
    """One object of a compute class on one channel.

    late  grids may begin in another order than they were sent
    """

    engine = Engine.COMPUTE

    def __init__(
        self,
        channel: int,
        class_id: int,
        memory: GpuMemory,
        launcher: Launcher,
        caches: Caches,
        refuse: Refuse,
        late: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._launcher = launcher
        self._caches = caches
        self._refuse = refuse
        self._late = late
        self._sent: deque[int] = deque()
        self._outstanding: set[int] = set()
        self._chain: set[int] = set()
        self._upload: bytearray | None = None
        self.methods = methods = Methods(Compute, class_id, refuse)
        methods.on(Compute.SEND_SIGNALING_PCAS2_B, self._pcas2)
        methods.on(Compute.SEND_SIGNALING_PCAS_B, self._pcas)
        methods.on(Compute.INVALIDATE_SHADER_CACHES, self._invalidate)
        methods.on(Compute.INVALIDATE_SHADER_CACHES_NO_WFI, self._invalidate)
        methods.on(Compute.SET_SHADER_LOCAL_MEMORY_WINDOW_B, self._local_window)
        methods.on(Compute.SET_SHADER_SHARED_MEMORY_WINDOW_B, self._shared_window)
        methods.on(Compute.LAUNCH_DMA, self._begin_upload)
        methods.on(Compute.LOAD_INLINE_DATA, self._load_inline)
        methods.on(Compute.SET_REPORT_SEMAPHORE_D, lambda value: refuse(_REPORTS))

    @property
    def is_busy(self) -> bool:
        """Whether a grid has been sent that has not ended."""
        return bool(self._sent)

    @property
    def was_used(self) -> bool:
        """Whether something was sent since somebody has waited for everything."""
        return bool(self._outstanding)

    @was_used.setter
    def was_used(self, used: bool) -> None:
        assert not used
        self._outstanding.clear()

    def drop(self) -> None:
        """The channel has stopped."""
        self._sent.clear()
        self._outstanding.clear()
        self._chain.clear()

    def step(self) -> None:
        """Run one grid to its end, and schedule what depends on it."""
        address = self._sent.pop() if self._late() else self._sent.popleft()
        dependent = self._launcher.run(address, self._settings())
        if dependent is None:
            self._chain.clear()
        elif dependent in self._chain or dependent == address:
            raise self._endless(address, dependent)
        else:
            self._chain.add(address)
            self._outstanding.add(dependent)
            (self._sent.append if self._late() else self._sent.appendleft)(dependent)

    def _endless(self, address: int, dependent: int) -> Stopped:
        return Stopped(
            LaunchFault(
                self._channel, Engine.COMPUTE,
                f"the QMD at {address:#x} schedules the one at {dependent:#x}, by which it was "
                "scheduled: that never ends", address,
            )
        )  # fmt: skip

    def _settings(self) -> Settings:
        wide = self.methods.wide
        return Settings(
            local_base=wide(Compute.SET_SHADER_LOCAL_MEMORY_A, Compute.SET_SHADER_LOCAL_MEMORY_B),
            local_tpc_bytes=wide(
                Compute.SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A,
                Compute.SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_B,
            ),
            local_window=wide(
                Compute.SET_SHADER_LOCAL_MEMORY_WINDOW_A, Compute.SET_SHADER_LOCAL_MEMORY_WINDOW_B
            ),
            shared_window=wide(
                Compute.SET_SHADER_SHARED_MEMORY_WINDOW_A,
                Compute.SET_SHADER_SHARED_MEMORY_WINDOW_B,
            ),
        )

    # Grids.

    def _pcas2(self, value: int) -> None:
        action = Pcas2(value).pcas_action
        if action in _SCHEDULES:
            self._send()
        elif action not in (PcasAction.NOP, PcasAction.INVALIDATE, PcasAction.PREFETCH):
            raise self._stopped(Compute.SEND_SIGNALING_PCAS2_B.description.offset, value)

    def _pcas(self, value: int) -> None:
        if value & _SCHEDULE_B:
            self._send()

    def _send(self) -> None:
        address = self.methods.get(Compute.SEND_PCAS_A) << QMD_SHIFT
        if address in self._outstanding:
            self._refuse(
                f"the QMD at {address:#x} sent again before anybody has waited for its grid"
            )
        assert QMD_SHIFT == POINTER_SHIFT
        self._outstanding.add(address)
        self._sent.append(address)

    # Caches and windows.

    def _invalidate(self, value: int) -> None:
        # Bits 0, 4 and 12 are the same in both methods.
        flags = InvalidateShaderCaches(value)
        self._caches.invalidate(code=flags.instruction, data=flags.data, constants=flags.constant)

    def _local_window(self, value: int) -> None:
        del value
        self._check_window("local", self._settings().local_window)

    def _shared_window(self, value: int) -> None:
        del value
        self._check_window("shared", self._settings().shared_window)

    def _check_window(self, name: str, base: int) -> None:
        if self.methods.class_id >= ComputeClass.HOPPER_A and base % (4 * GiB):
            self._refuse(f"a window of {name} memory at {base:#x}, no multiple of 4 GiB")

    # Uploads of data in the pushbuffer itself.

    def _begin_upload(self, value: int) -> None:
        launch = InlineLaunch(value)
        count, lines = (
            self.methods.get(Compute.LINE_LENGTH_IN),
            self.methods.get(Compute.LINE_COUNT),
        )
        if not launch.dst_memory_layout or lines > 1 or not 0 < count <= _MOST_INLINE:
            raise self._stopped(Compute.LAUNCH_DMA.description.offset, value)
        if launch.completion_type == DmaCompletion.RELEASE_SEMAPHORE or launch.reduction_enable:
            self._refuse("an upload with a semaphore or a reduction")
        self._upload = bytearray()

    def _load_inline(self, value: int) -> None:
        if self._upload is None:
            raise self._stopped(Compute.LOAD_INLINE_DATA.description.offset, value)
        self._upload += value.to_bytes(4, "little")
        size = self.methods.get(Compute.LINE_LENGTH_IN)
        if len(self._upload) >= size:
            to = self.methods.wide(Compute.OFFSET_OUT_UPPER, Compute.OFFSET_OUT)
            self._memory.write(to, bytes(self._upload[:size]))
            self._caches.others_wrote()
            self._upload = None

    def _stopped(self, method: int, value: int) -> Stopped:
        detail = f"method {method:#06x} with {value:#x}, which means nothing"
        return Stopped(
            MethodFault(self._channel, Engine.COMPUTE, detail, self.methods.class_id, method, value)
        )
