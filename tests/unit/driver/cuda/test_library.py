"""The table of libcuda's functions is what NVIDIA's header says, as a compiler reads it."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from exosuit.driver.cuda.library import FUNCTIONS, KernelNode, Library, bind
from exosuit.errors import HelperMissing

_SCALARS = {
    ctypes.c_int: "int", ctypes.c_uint: "unsigned int", ctypes.c_size_t: "size_t",
    ctypes.c_uint64: "unsigned long long", ctypes.c_ubyte: "unsigned char",
    ctypes.c_void_p: "void*", ctypes.c_char_p: "const char*", ctypes.c_float: "float",
    ctypes.c_char: "char", KernelNode: "CUDA_KERNEL_NODE_PARAMS_v2",
}  # fmt: skip
_CHECK = """
#include <cuda.h>
#include <cstddef>
#include <tuple>
#include <type_traits>
template<class T> constexpr bool pointer = std::is_pointer_v<T>;
template<class T> using target = std::remove_cv_t<std::remove_pointer_t<T>>;
template<class T, bool = std::is_enum_v<T>> struct plain { using type = T; };
template<class T> struct plain<T, true> { using type = int; };
// Theirs and ours: scalars alike in size and sign, pointers to things of the same size.
template<class A, class B> constexpr bool fits() {
    using P = typename plain<A>::type;
    if constexpr (pointer<P> || pointer<B>) {
        if constexpr (!pointer<P> || !pointer<B>) return false;
        else if constexpr (std::is_void_v<target<B>> || std::is_void_v<target<P>>) return true;
        else if constexpr (!std::is_class_v<target<P>> || std::is_class_v<target<B>>)
            return sizeof(typename plain<target<P>>::type) == sizeof(target<B>);
        else return false;
    } else return sizeof(P) == sizeof(B) && std::is_signed_v<P> == std::is_signed_v<B>;
}
template<class F, class... B> struct check;
template<class... A, class... B> struct check<CUresult(A...), B...> {
    static constexpr bool value() {
        if constexpr (sizeof...(A) != sizeof...(B)) return false;
        else return (fits<A, B>() && ...);
    }
};
"""


def _type(kind: type) -> str:
    if kind in _SCALARS:
        return _SCALARS[kind]
    return _type(kind._type_) + "*"  # type: ignore[attr-defined]


def _checked(functions: dict[str, tuple[type, ...]], where: Path) -> subprocess.CompletedProcess:
    header, compiler = _header(), shutil.which("g++")
    if header is None or compiler is None:
        pytest.skip("no cuda.h (CUDA toolkit or nvidia-cuda-runtime) or no g++ to read it with")
    lines = [_CHECK]
    for name, arguments in functions.items():
        types = "".join(f", {_type(kind)}" for kind in arguments)
        lines.append(f'static_assert(check<decltype({name}){types}>::value(), "{name}");')
    fields = {"func": "func", "grid": "gridDimX", "block": "blockDimX",
              "shared_bytes": "sharedMemBytes", "kernel_params": "kernelParams",
              "extra": "extra", "kern": "kern", "context": "ctx"}  # fmt: skip
    node = "CUDA_KERNEL_NODE_PARAMS_v2"
    lines.append(f'static_assert(sizeof({node}) == {ctypes.sizeof(KernelNode)}, "size");')
    for ours, theirs in fields.items():
        offset = getattr(KernelNode, ours).offset
        lines.append(f'static_assert(offsetof({node}, {theirs}) == {offset}, "{theirs}");')
    source = where / "check.cpp"
    source.write_text("\n".join(lines))
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{header.parent}", source]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _header() -> Path | None:
    """NVIDIA's cuda.h: of a toolkit, or of a wheel of PyPI."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    places = [
        *Path("/usr/local").glob("cuda*/include/cuda.h"),
        *(file for folder in folders for file in Path(folder).glob("*/include/cuda.h")),
    ]
    return next((file for file in sorted(places, reverse=True)), None)


def test_the_table_is_the_headers(tmp_path: Path) -> None:
    done = _checked(FUNCTIONS, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "position", "kind"),
    [
        ("cuMemAlloc_v2", 1, ctypes.c_uint),
        ("cuMemAlloc_v2", 0, ctypes.POINTER(ctypes.c_uint)),
        ("cuGraphAddKernelNode_v2", 3, ctypes.c_int),
        ("cuDeviceGetAttribute", 0, ctypes.c_int),
    ],
)
def test_the_check_notices(tmp_path: Path, name: str, position: int, kind: type) -> None:
    wrong = list(FUNCTIONS[name])
    wrong[position] = kind
    done = _checked(FUNCTIONS | {name: tuple(wrong)}, tmp_path)
    assert done.returncode != 0
    assert name in done.stderr


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exosuit.driver.cuda.library.NAMES", ("libcuda-that-is-not.so.1",))
    with pytest.raises(HelperMissing, match="no libcuda") as caught:
        Library.load()
    assert "libcuda-that-is-not.so.1" in caught.value.cause


def test_a_library_without_a_function() -> None:
    class Old:
        def __getattr__(self, name: str) -> object:
            if name == "cuGraphAddKernelNode_v2":
                raise AttributeError(name)
            return type("Function", (), {})()

    with pytest.raises(HelperMissing, match="too old") as caught:
        Library(bind(Old()))
    assert caught.value.fields["symbol"] == "cuGraphAddKernelNode_v2"
