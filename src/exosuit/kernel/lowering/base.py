"""What a family of targets must say: the entry's shape, the workgroup, dots and matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from exosuit.kernel.builder import Builder
from exosuit.kernel.matrix import MatrixTile
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass
from exosuit.kernel.value import Value
from exosuit.program import Parameter

ATOMIC_WORDS = {
    "add": {"int": "add", "uint": "add", "float": "fadd"},
    "max": {"int": "max", "uint": "umax", "float": "fmax"},
    "min": {"int": "min", "uint": "umin", "float": "fmin"},
    "exchange": {"int": "xchg", "uint": "xchg", "float": "xchg"},
}
"""LLVM's word for an atomic operation, by kind of type."""


class Lowering(ABC):
    """Stateless; all state is in the builder that is current."""

    # The function -------------------------------------------------------------------------

    @abstractmethod
    def arguments(self, parameters: tuple[Parameter, ...]) -> list[str]:
        """Open the function: emit what makes each argument available; their IR names."""

    @abstractmethod
    def finish(self, builder: Builder, parameters: tuple[Parameter, ...]) -> str:
        """Close the function: the whole module's text."""

    # The workgroup ------------------------------------------------------------------------

    @abstractmethod
    def group(self) -> Value: ...

    @abstractmethod
    def lane(self) -> Value: ...

    @abstractmethod
    def wave(self) -> Value: ...

    @abstractmethod
    def wave_lane(self) -> Value: ...

    @abstractmethod
    def leader(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def shared(self, dtype: DTypeClass, count: int) -> Pointer[DType]: ...

    @abstractmethod
    def barrier(self, memory: bool) -> None: ...

    @abstractmethod
    def wave_barrier(self) -> None: ...

    @abstractmethod
    def keep_order(self) -> None: ...

    @abstractmethod
    def wave_reduce(self, operation: str, x: Value) -> Value: ...

    @abstractmethod
    def group_reduce(self, operation: str, x: Value) -> Value: ...

    @abstractmethod
    def shuffle_xor(self, x: Value, mask: int) -> Value: ...

    @abstractmethod
    def atomic(
        self, operation: str, pointer: Pointer[DType], index: Value | int, value: Value
    ) -> Value:
        """One of "add", "max", "min", "exchange"."""

    @abstractmethod
    def compare_exchange(
        self, pointer: Pointer[DType], index: Value | int, expected: Value, new: Value
    ) -> Value: ...

    # Dots and matrices --------------------------------------------------------------------

    @abstractmethod
    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value: ...

    @abstractmethod
    def lookup16(self, table: list[int], index: Value) -> Value: ...

    @abstractmethod
    def prefetch(self, pointer: Pointer[DType], keep: bool) -> None: ...

    # Words behind a capability: the table refuses them before they get here.

    def mma_tile(self, dtype: DTypeClass) -> MatrixTile:
        raise NotImplementedError

    def mma(self, a: Value, b: Value, c: Value) -> Value:
        raise NotImplementedError

    def async_copy(self, to: Pointer[DType], source: Pointer[DType], size: int) -> None:
        raise NotImplementedError

    def async_commit(self) -> None:
        raise NotImplementedError

    def async_wait(self, pending: int) -> None:
        raise NotImplementedError

    def pair_dot_bytes(self, a: Value, b: Value) -> Value:
        raise NotImplementedError

    def pair_dot(self, a: Value, b: Value) -> Value:
        raise NotImplementedError

    def apply_sign(self, x: Value, sign: Value) -> Value:
        raise NotImplementedError

    # Mathematics --------------------------------------------------------------------------

    @abstractmethod
    def exp(self, x: Value) -> Value: ...

    @abstractmethod
    def rsqrt(self, x: Value) -> Value: ...

    @abstractmethod
    def reciprocal(self, x: Value) -> Value: ...

    @abstractmethod
    def sincos(self, x: Value) -> tuple[Value, Value]: ...
