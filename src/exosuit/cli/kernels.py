"""`exosuit kernels`: list the kernels of exosuit.ops, compile them for any target, show the code.

Static parameters of a kernel are Python values; `--set` reads them as literals, or as calls of the
classes that the kernel's own module knows, and evaluates nothing else.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import pkgutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import ExosuitError, KernelError, UsageError
from exosuit.settings import Settings

if TYPE_CHECKING:
    from exosuit.kernel import Kernel, Target


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers,
        "kernels",
        "List the kernels, compile them for a target, show their code.",
        "exosuit kernels rms_norm --set width=4096 --set eps=1e-5 --target gfx1100 --asm",
        json=True,
    )
    parser.add_argument(
        "kernel", nargs="?", help="one kernel, or `pack`; without it all are listed"
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL",
        help="with `pack`: GGUF files whose programs become machine code, for every NVIDIA target",
    )  # fmt: skip
    parser.add_argument(
        "--target", default="host", help="what to compile for: host (default), gfx1100, sm_90, ..."
    )
    parser.add_argument(
        "--summary", action="store_true",
        help="of an AMD target: what the code of each op consists of, and its share of bandwidth",
    )  # fmt: skip
    parser.add_argument("--report", metavar="FILE", help="write that as a page (Markdown)")
    parser.add_argument("--asm", action="store_true", help="print the kernel's assembly")
    parser.add_argument("--out", metavar="FOLDER", help="write the compiled code there")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="static",
        help="a static parameter of the kernel; may repeat",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.kernel import Target

    del settings
    if arguments.kernel == "pack":
        from exosuit.cli.kernel_pack import write_packs

        write_packs(arguments)
        return 0
    if arguments.models:
        raise UsageError(
            f"exosuit kernels {arguments.kernel} takes no files",
            cause="models are for `pack`",
            next=f"exosuit kernels pack {arguments.models[0]}",
        )
    target, kernels = Target.named(arguments.target), _kernels()
    if arguments.summary or arguments.report:
        _summary(target, arguments)
        return 0
    if arguments.kernel is None:
        if arguments.asm or arguments.out or arguments.static:
            raise UsageError(
                "--asm, --out and --set are about one kernel",
                cause="no kernel was named",
                next=f"exosuit kernels {kernels[0].name} --target {target.name} --asm",
            )
        _list(kernels, target, arguments.json)
        return 0
    kernel = _named(arguments.kernel, kernels)
    static = _static(kernel, arguments.static)
    _compile(kernel, target, static, arguments)
    return 0


def _kernels() -> list[Kernel]:
    """Every @kernel in the modules of exosuit.ops, by name."""
    from exosuit import ops
    from exosuit.kernel import Kernel

    found: dict[str, Kernel] = {}
    for module in pkgutil.walk_packages(ops.__path__, "exosuit.ops."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, Kernel) and value.__module__ == module.name:
                found[value.name] = value
    return [found[name] for name in sorted(found)]


def _named(name: str, kernels: list[Kernel]) -> Kernel:
    for kernel in kernels:
        if kernel.name == name:
            return kernel
    names = [kernel.name for kernel in kernels]
    near = difflib.get_close_matches(name, names, n=1)
    raise UsageError(
        f"there is no kernel {name!r}",
        cause=f"the kernels are {', '.join(names)}",
        next=f"did you mean {near[0]}?" if near else "exosuit kernels",
        suggestion=near[0] if near else None,
    )


# Listing --------------------------------------------------------------------------------------


def _list(kernels: list[Kernel], target: Target, as_json: bool) -> None:
    rows = [_row(kernel, target) for kernel in kernels]
    if as_json:
        render.document({
            "target": target.name,
            "capabilities": sorted(target.capabilities),
            "kernels": rows,
        })  # fmt: skip
        return
    render.table(
        ("kernel", "module", "arguments", "static", f"on {target.name}"),
        [
            (
                row["name"], row["module"].removeprefix("exosuit."), str(len(row["parameters"])),
                ", ".join(row["static"]), row["verdict"],
            )
            for row in rows
        ],
    )  # fmt: skip
    render.note(f"{target.name} can: {', '.join(sorted(target.capabilities)) or 'nothing special'}")


def _summary(target: Target, arguments: argparse.Namespace) -> None:
    from exosuit.cli import kernel_report

    if target.family != "amdgpu" or target.has("wmma_gfx12") or arguments.kernel is not None:
        raise UsageError(
            f"there is no summary of {arguments.kernel or target.name}",
            cause="it is made for all kernels of a gfx11 target, whose code exosuit can read",
            next="exosuit kernels --target gfx1100 --summary",
        )
    found = kernel_report.reports(target)
    if arguments.report:
        _write(Path(arguments.report), kernel_report.page(target, found).encode())
    if arguments.json:
        document = {"target": target.name, "card": kernel_report.CHIP}
        render.document({**document, "launches": [asdict(each) for each in found]})
    elif not arguments.report:
        render.table(kernel_report.HEADINGS, [kernel_report.row(each) for each in found])


def _row(kernel: Kernel, target: Target) -> dict[str, Any]:
    static = _static_names(kernel)
    verdict, reason = "needs --set" if static else "accepted", None
    if not static:
        try:
            kernel.trace(target)
        except KernelError as refused:
            verdict, reason = "refused", refused.what
    return {
        "name": kernel.name,
        "module": kernel.__module__,
        "parameters": [
            {"name": p.name, "dtype": p.dtype, "access": p.access.value} for p in kernel.parameters
        ],
        "static": static,
        "group_size": kernel.group_size if target.is_gpu else 1,
        "verdict": verdict,
        "reason": reason,
    }


def _static_names(kernel: Kernel) -> list[str]:
    """The static parameters that have no default."""
    parameters = inspect.signature(kernel.function).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is inspect.Parameter.empty
    ]


# Compiling ------------------------------------------------------------------------------------


def _compile(
    kernel: Kernel, target: Target, static: dict[str, Any], arguments: argparse.Namespace
) -> None:
    from exosuit.kernel import compile_kernel, emit

    program = compile_kernel(kernel, target, **static)
    written: Path | None = None
    assembly = ""
    if arguments.asm:
        ir = kernel.trace(target, **static).ir
        assembly = emit(ir, target, assembly=True, name=kernel.name).decode()
    if arguments.out:
        ending = ".s" if arguments.asm else ".ptx" if target.family == "nvptx" else ".o"
        written = Path(arguments.out) / f"{kernel.name}.{target.name}{ending}"
        _write(written, assembly.encode() if arguments.asm else program.code)
    if arguments.json:
        render.document({
            "name": kernel.name,
            "target": target.name,
            "entry": program.entry,
            "code_bytes": len(program.code),
            "group_size": program.group_size,
            "shared_bytes": program.shared_bytes,
            "file": str(written) if written else None,
            "assembly": assembly or None,
        })  # fmt: skip
    elif arguments.asm and written is None:
        print(assembly)
    else:
        place = f", written to {written}" if written else ""
        render.text(
            f"{kernel.name} for {target.name}: {len(program.code)} bytes of code, "
            f"{program.shared_bytes} of shared memory{place}"
        )


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise ExosuitError(
            f"{file} cannot be written: {error.strerror}",
            cause="the folder is missing, full or not yours",
            next="name another one with --out FOLDER",
        ) from error


def _static(kernel: Kernel, settings: list[str]) -> dict[str, Any]:
    """The static parameters that `--set` gives; UsageError for missing and unknown ones."""
    module = inspect.getmodule(kernel.function)
    assert module is not None
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {setting}", cause="it is written NAME=VALUE", next="exosuit kernels --help"
            )
        values[name] = _value(text, module)
    parameters = inspect.signature(kernel.function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    missing = [name for name in _static_names(kernel) if name not in values]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        raise UsageError(
            f"kernel {kernel.name!r} "
            + (f"needs {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"),
            cause=f"its static parameters are {', '.join(known) or 'none'}",
            next=f"exosuit kernels {kernel.name} "
            + " ".join(f"--set {name}=..." for name in known),
        )
    return values


def _value(text: str, module: ModuleType) -> Any:
    try:
        return _literal(ast.parse(text, mode="eval").body, module)
    except (SyntaxError, ValueError, TypeError) as error:
        raise UsageError(
            f"{text!r} is no static value",
            cause=str(error),
            next="write a literal, or a call such as Quant('q4_0')",
        ) from error


def _literal(node: ast.expr, module: ModuleType) -> Any:
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    known = getattr(module, node.func.id, None) if isinstance(node.func, ast.Name) else None
    if not isinstance(known, type) or not known.__module__.startswith("exosuit."):
        raise ValueError(f"{ast.unparse(node.func)} is no class that {module.__name__} knows")
    arguments = [_literal(argument, module) for argument in node.args]
    named = {word.arg: _literal(word.value, module) for word in node.keywords if word.arg}
    return known(*arguments, **named)
