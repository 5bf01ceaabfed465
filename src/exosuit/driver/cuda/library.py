"""libcuda: every function of it that is used, declared once with its C types, and how it is called.

`cuda.h` maps plain names to symbols with a version behind them; here stand the symbols, since those
are what the library has. A `Library` may be bound to the real one or to anything else that offers
functions of these types. Nothing here knows what the functions are good for.

Source: cuda.h of CUDA 13.0; `tests/unit/driver/cuda` compiles the table against that header.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_ubyte,
    c_uint,
    c_uint64,
    c_void_p,
)
from typing import Any

from exosuit.driver.cuda.failures import explain
from exosuit.errors import ExosuitError, HelperMissing

Function = Callable[..., int]

NAMES = ("libcuda.so.1", "libcuda.so")
"""Where the driver puts it on Linux; there is none on a Mac."""


class KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2: one launch in a graph."""

    _fields_ = (
        ("func", c_void_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("kernel_params", c_void_p),
        ("extra", POINTER(c_void_p)),
        ("kern", c_void_p),
        ("context", c_void_p),
    )


_Device, _Address, _Handle, _Bytes = c_int, c_uint64, c_void_p, c_size_t
_Out, _Text = POINTER(c_void_p), POINTER(c_char)

# fmt: off
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(_Device), c_int),
    "cuDeviceGetName": (_Text, c_int, _Device),
    "cuDeviceGetPCIBusId": (_Text, c_int, _Device),
    "cuDeviceTotalMem_v2": (POINTER(_Bytes), _Device),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, _Device),
    "cuDevicePrimaryCtxRetain": (_Out, _Device),
    "cuDevicePrimaryCtxRelease_v2": (_Device,),
    "cuCtxSetCurrent": (_Handle,),
    "cuMemGetInfo_v2": (POINTER(_Bytes), POINTER(_Bytes)),
    "cuMemAlloc_v2": (POINTER(_Address), _Bytes),
    "cuMemFree_v2": (_Address,),
    "cuMemHostAlloc": (_Out, _Bytes, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (POINTER(_Address), c_void_p, c_uint),
    "cuMemcpyHtoDAsync_v2": (_Address, c_void_p, _Bytes, _Handle),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _Address, _Bytes, _Handle),
    "cuMemcpyDtoDAsync_v2": (_Address, _Address, _Bytes, _Handle),
    "cuMemsetD8Async": (_Address, c_ubyte, _Bytes, _Handle),
    "cuStreamCreate": (_Out, c_uint),
    "cuStreamDestroy_v2": (_Handle,),
    "cuStreamQuery": (_Handle,),
    "cuEventCreate": (_Out, c_uint),
    "cuEventRecord": (_Handle, _Handle),
    "cuEventQuery": (_Handle,),
    "cuEventElapsedTime": (POINTER(c_float), _Handle, _Handle),
    "cuEventDestroy_v2": (_Handle,),
    "cuModuleLoadDataEx": (_Out, c_void_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleGetFunction": (_Out, _Handle, c_char_p),
    "cuModuleUnload": (_Handle,),
    "cuGraphCreate": (_Out, c_uint),
    "cuGraphAddKernelNode_v2": (_Out, _Handle, _Out, _Bytes, POINTER(KernelNode)),
    "cuGraphAddEmptyNode": (_Out, _Handle, _Out, _Bytes),
    "cuGraphInstantiateWithFlags": (_Out, _Handle, c_uint64),
    "cuGraphUpload": (_Handle, _Handle),
    "cuGraphLaunch": (_Handle, _Handle),
    "cuGraphExecDestroy": (_Handle,),
    "cuGraphDestroy": (_Handle,),
}
# fmt: on


class Library:
    """The functions, ready to be called."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        """`functions` by symbol; HelperMissing if one of the table is not among them."""
        missing = next((name for name in FUNCTIONS if name not in functions), None)
        if missing is not None:
            raise HelperMissing(
                "NVIDIA's driver is too old",
                cause=f"its libcuda has no {missing}, which came with CUDA 12",
                next="install a driver of branch 575 or later, then  exosuit list",
                symbol=missing,
            )
        self._functions = functions

    @staticmethod
    def load() -> Library:
        """The driver's own. HelperMissing where there is none."""
        for name in NAMES:
            try:
                return Library(bind(ctypes.CDLL(name)))
            except OSError:
                continue
        raise HelperMissing(
            "there is no libcuda on this machine",
            cause=f"{NAMES[0]} comes with NVIDIA's driver, which is not installed",
            next="install the driver, or use another way to the card: exosuit list",
        )

    def status(self, name: str, *arguments: Any) -> int:
        """Call, and return the CUresult."""
        return self._functions[name](*arguments)

    def call(self, name: str, *arguments: Any) -> None:
        """Call; whatever is not success is raised, as `failures.explain` tells it."""
        status = self._functions[name](*arguments)
        if status:
            raise self.error(status, name)

    def error(self, status: int, function: str) -> ExosuitError:
        return explain(status, self._text("cuGetErrorName", status), function, self._text)

    def _text(self, function: str, status: int) -> str:
        found = c_char_p()
        if self._functions[function](status, ctypes.byref(found)) or found.value is None:
            return f"error {status}"
        return found.value.decode("utf-8", "replace")

    def number(self, name: str, *arguments: Any) -> int:
        """Of a function that gives an int first."""
        found = c_int()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value

    def handle(self, name: str, *arguments: Any) -> int:
        """Of a function that makes something."""
        found = c_void_p()
        self.call(name, ctypes.byref(found), *arguments)
        assert found.value is not None, name
        return found.value

    def text(self, name: str, *arguments: Any) -> str:
        """Of a function that writes a string of up to 255 bytes."""
        found = ctypes.create_string_buffer(256)
        self.call(name, found, len(found), *arguments)
        return found.value.decode("utf-8", "replace")


def bind(library: Any) -> dict[str, Function]:
    """The functions of a shared library that it has, with their types."""
    found: dict[str, Function] = {}
    for name, arguments in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            continue
        function.argtypes, function.restype = arguments, c_int
        found[name] = function
    return found
