"""The copy engine: lines of bytes from one GPU address to another, constants, semaphores.

Copies of the pipelined kind may still be under way when the next one begins. On a late card they
are done last, and in the opposite order, unless something waits for them.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.nvidia.copy import (
    MOST_BYTES,
    Copy,
    LaunchDma,
    RemapComponents,
    RemapSource,
    Semaphore,
    Transfer,
)
from exosuit.softcard.nvidia.executor.caches import Caches
from exosuit.softcard.nvidia.executor.faults import Engine, MethodFault, Stopped
from exosuit.softcard.nvidia.executor.memory import GpuMemory
from exosuit.softcard.nvidia.executor.methods import Methods
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.registers import Refuse
from exosuit.softcard.timeline import Timeline

COPY_NS = 1_000.0
"""What a copy takes beyond its bytes; `assumed`."""
MOST_LINES = 1 << 16
"""Of one copy; more of them is a hang here, as each takes microseconds of the host."""
_PIECE = 4 << 20
_CONSTANT = (RemapSource.CONST_A, RemapSource.CONST_B)


class CopyEngine:
    """One object of a copy class on one channel.

    late      copies may be done in another order than asked for
    was_used  whether a copy was begun since somebody has waited for all
    """

    engine = Engine.COPY

    def __init__(
        self,
        channel: int,
        class_id: int,
        memory: GpuMemory,
        shape: Shape,
        timeline: Timeline,
        caches: Caches,
        refuse: Refuse,
        late: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._shape = shape
        self._timeline = timeline
        self._caches = caches
        self._refuse = refuse
        self._late = late
        self.was_used = False
        self._waiting: list[Callable[[], None]] = []
        self.methods = methods = Methods(Copy, class_id, refuse)
        methods.on(Copy.LAUNCH_DMA, self._launch)

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    def step(self) -> None:
        """Do one copy of those under way: the one that nobody would expect."""
        self._waiting.pop()()

    def drop(self) -> None:
        """The channel has stopped."""
        self._waiting.clear()

    def _finish(self) -> None:
        while self._waiting:
            self.step()

    def _launch(self, value: int) -> None:
        launch = LaunchDma(value)
        if launch.src_type or launch.dst_type:
            raise self._stopped(value, "physical addresses, which only privileged channels may use")
        if launch.interrupt_type or launch.semaphore_reduction_enable:
            self._refuse(f"LAUNCH_DMA {value:#x} with an interrupt or a reduction")
        transfer = launch.data_transfer_type
        if transfer > Transfer.NON_PIPELINED:
            raise self._stopped(value, "an unknown kind of transfer")
        if transfer != Transfer.NONE:
            if not (launch.src_memory_layout and launch.dst_memory_layout):
                raise self._stopped(value, "block-linear layout, which is for textures")
            work = self._transfer(launch, value)
            self.was_used = True
            if transfer == Transfer.NON_PIPELINED:
                self._finish()
                work()
            elif self._late():
                self._waiting.append(work)
            else:
                work()
        if launch.flush_enable:
            self._finish()
            self.was_used = False
        if launch.semaphore_type != Semaphore.NONE:
            self._release(launch)

    def _transfer(self, launch: LaunchDma, value: int) -> Callable[[], None]:
        """A copy as its methods say now; they may be written anew before it is done."""
        get = self.methods
        source = get.wide(Copy.OFFSET_IN_UPPER, Copy.OFFSET_IN_LOWER)
        target = get.wide(Copy.OFFSET_OUT_UPPER, Copy.OFFSET_OUT_LOWER)
        length = get.get(Copy.LINE_LENGTH_IN)
        lines = get.get(Copy.LINE_COUNT) if launch.multi_line_enable else 1
        step_in, step_out = get.get(Copy.PITCH_IN), get.get(Copy.PITCH_OUT)
        if length * lines > MOST_BYTES:
            raise self._stopped(value, f"{lines} lines of {length} elements")
        if lines > MOST_LINES:
            raise Stopped(None, f"a copy of {lines} lines, which would take too long here")
        if not launch.remap_enable:

            def copy() -> None:
                for line in range(lines):
                    self._copy(source + line * step_in, target + line * step_out, length)

            return copy
        element = self._element(RemapComponents(get.get(Copy.SET_REMAP_COMPONENTS)), value)

        def fill() -> None:
            for line in range(lines):
                self._fill(target + line * step_out, element, length)

        return fill

    def _element(self, components: RemapComponents, value: int) -> bytes:
        """What a fill repeats."""
        size = components.component_size + 1
        chosen = [int(components) >> 4 * k & 7 for k in range(components.num_dst_components + 1)]
        constants = (
            self.methods.get(Copy.SET_REMAP_CONST_A),
            self.methods.get(Copy.SET_REMAP_CONST_B),
        )
        if any(source not in _CONSTANT for source in chosen):
            raise self._stopped(value, "components that are no constants, which nobody needs")
        return b"".join(
            constants[source - RemapSource.CONST_A].to_bytes(4, "little")[:size]
            for source in chosen
        )

    def _copy(self, source: int, target: int, size: int) -> None:
        for at in range(0, size, _PIECE):
            count = min(_PIECE, size - at)
            self._memory.write(target + at, self._memory.read(source + at, count))
        self._spend(
            size, self._memory.host_bytes(source, size), self._memory.host_bytes(target, size)
        )

    def _fill(self, target: int, element: bytes, count: int) -> None:
        size, piece = count * len(element), _PIECE // len(element)
        for at in range(0, count, piece):
            done = at * len(element)
            self._memory.write(target + done, element * min(piece, count - at))
        self._spend(size, 0, self._memory.host_bytes(target, size))

    def _spend(self, size: int, read: int, written: int) -> None:
        self._caches.others_wrote()
        if read:
            self._timeline.read_host(read)
        if written:
            self._timeline.write_host(written)
        local = 2 * size - read - written
        self._timeline.spend(COPY_NS + local / self._shape.bandwidth * 1e9)

    def _release(self, launch: LaunchDma) -> None:
        """Write the semaphore."""
        if not launch.flush_enable:
            self._refuse("a semaphore of the copy engine without FLUSH_ENABLE")
        get = self.methods
        address = get.wide(Copy.SET_SEMAPHORE_A, Copy.SET_SEMAPHORE_B)
        payload = get.get(Copy.SET_SEMAPHORE_PAYLOAD)
        if launch.semaphore_payload_size:
            payload |= get.get(Copy.SET_SEMAPHORE_PAYLOAD_UPPER) << 32
        match launch.semaphore_type:
            case Semaphore.RELEASE_ONE_WORD_SEMAPHORE:
                data = payload.to_bytes(8, "little")[: 8 if launch.semaphore_payload_size else 4]
            case Semaphore.RELEASE_FOUR_WORD_SEMAPHORE:
                time = int(self._timeline.now_ns)
                data = payload.to_bytes(8, "little") + time.to_bytes(8, "little")
            case _:
                raise self._stopped(int(launch), "a conditional semaphore")
        if address % len(data):
            raise self._stopped(
                int(launch),
                f"a semaphore of {len(data)} bytes at {address:#x}, which is not aligned",
            )
        if self._memory.host_bytes(address, len(data)):
            self._timeline.write_host(len(data))
        self._memory.write(address, data)

    def _stopped(self, value: int, why: str) -> Stopped:
        return Stopped(
            MethodFault(
                self._channel, Engine.COPY, f"LAUNCH_DMA {value:#x}: {why}",
                self.methods.class_id, Copy.LAUNCH_DMA.description.offset, value,
            )
        )  # fmt: skip
