"""`exosuit bench`: how fast a model is here, and what share of the physical limit that is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.bench_card import Watched, limits_told, tell_cards
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import UsageError
from exosuit.settings import Settings

if TYPE_CHECKING:
    from exosuit.driver.device import Device
    from exosuit.engine.runner import DeviceRunner
    from exosuit.models.gguf import GgufFile

_PEERS = ("llama.cpp",)


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "bench", "Measure prefill and decode, as a share of the machine's limits.",
        "exosuit bench smollm2 --threads 1 --threads 2 --against llama.cpp", json=True,
    )  # fmt: skip
    parser.add_argument("model", nargs="?", help="path, store name or known name")
    parser.add_argument("--device", action="append", help="device; may repeat (default: cpu)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--generate", type=int, default=128, help="tokens decoded in a round")
    parser.add_argument("--filled", type=int, default=32, help="tokens in the context before it")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, action="append", help="threads; may repeat")
    parser.add_argument("--against", action="append", choices=_PEERS, help="a peer to interleave")
    parser.add_argument(
        "--busy", type=int, default=0, help="keep so many other processes computing meanwhile"
    )


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    for name in ("prompt", "generate", "filled", "repeat"):
        if getattr(arguments, name) < 1:
            raise UsageError(
                f"--{name} is {getattr(arguments, name)}",
                cause="it must be 1 or more",
                next="exosuit bench --help",
            )
    devices = arguments.device or ["cpu"]
    is_soft = [name.startswith("soft:") for name in devices]
    if any(is_soft):
        if not all(is_soft) or arguments.against or arguments.busy or arguments.threads:
            raise UsageError(
                "software cards are measured by themselves",
                cause="they have virtual time, and nothing else here has",
                next=f"exosuit bench --device {devices[is_soft.index(True)]}",
            )
        return _tell_simulated(measure_simulated(arguments, settings), arguments.json)
    document = measure(arguments, settings)
    if arguments.json:
        render.document(document)
        return 0
    render.text(f"{document['model']} on {document['machine']['processor']}")
    render.table(
        ("engine", "threads", "prefill tok/s", "decode tok/s", "GB/s", "of memory", "GFLOP/s",
         "of arithmetic"),
        [
            (
                row["engine"], str(row["threads"]), f"{row['prefill_tok_s']:.1f}",
                f"{row['decode_tok_s']:.1f}", f"{row['decode_gb_s']:.1f}",
                f"{row['bandwidth_share']:.0%}", f"{row['prefill_gflop_s']:.0f}",
                f"{row['arithmetic_share']:.0%}",
            )
            for row in document["results"]
        ],
    )  # fmt: skip
    for line in ratios(document["results"]):
        render.text(line)
    tell_cards(document["results"])
    return 0


def measure(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The document of `bench --json`."""
    from exosuit import open_device
    from exosuit.advise import bench
    from exosuit.engine.runner import open_runner
    from exosuit.models.gguf import GgufFile
    from exosuit.models.pull import resolve_model
    from exosuit.models.store import Store

    path = resolve_model(arguments.model, Store(settings.model_store), progress=render.Bar())
    context = max(arguments.prompt, arguments.filled + arguments.generate) + 1
    contenders: list[bench.Contender] = []
    watched: dict[tuple[str, int], Watched] = {}

    def measure_each() -> None:
        for one in watched.values():
            one.measure()

    with GgufFile.open(path) as file:
        for name in arguments.device or ["cpu"]:
            for threads in arguments.threads or [None]:
                device = open_device(name, settings, threads)
                count = device.parallel_groups
                watched[device.name, count] = Watched(device)
                _, runner, timings = open_runner(
                    path, device, settings.cache / "programs", context=context
                )
                contenders.append(
                    bench.Ours(runner, device.name, count, timings.load_s, filled=arguments.filled)
                )
                vocabulary = runner.vocabulary
                if arguments.against:
                    peer = bench.open_peer(path, count, context, 512, vocabulary)
                    if peer is None:
                        raise UsageError(
                            "llama.cpp is not installed here",
                            cause="it is measured through the package xllamacpp",
                            next="pip install xllamacpp",
                        )
                    peer.filled = arguments.filled
                    contenders.append(peer)
        with bench.busy(arguments.busy):
            rounds = bench.measure(
                contenders, arguments.prompt, arguments.generate, arguments.repeat, render.note,
                measure_each,
            )  # fmt: skip
        results: list[dict[str, Any]] = []
        for contender, found in zip(contenders, rounds, strict=True):
            seen = watched.get((contender.device, contender.threads))
            row = bench.result(contender, found, file, seen.limits if seen else None)
            if seen is not None and isinstance(contender, bench.Ours):
                row |= seen.told(contender.runner, file)
            results.append(row)
        name = file.path.name
    for contender in contenders:
        contender.close()
    return {
        "machine": machine(arguments.busy) | {"limits_by_threads": limits_told(watched)},
        "model": name,
        "results": results,
    }


def measure_simulated(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The document of `bench --json` for software cards, each held in this process."""
    from dataclasses import replace

    from exosuit.advise import simulated
    from exosuit.devices import open_card
    from exosuit.engine.runner import open_runner
    from exosuit.models.pull import resolve_model
    from exosuit.models.store import Store
    from exosuit.softcard.amd.card import AmdCard
    from exosuit.softcard.chips import make_card, parse_options, parse_spec
    from exosuit.softcard.direct import DirectLink

    path = resolve_model(arguments.model, Store(settings.model_store), progress=render.Bar())
    context = max(arguments.prompt, 32 + arguments.generate + 1) + 1
    results: list[dict[str, Any]] = []
    for name in arguments.device:
        chip, chosen = parse_spec(name.removeprefix("soft:"))
        card = make_card(chip, replace(parse_options(chosen), cache=settings.cache / "softcard"))
        if not isinstance(card, AmdCard):
            raise UsageError(
                f"{name} computes nothing",
                cause="it has a copy engine and no driver",
                next="exosuit bench --device soft:gfx1100,link=tb4",
            )
        render.note(f"{name}: booting")
        device = open_card(DirectLink(card), settings)
        boot = simulated.crossed(card)
        render.note(f"{name}: {path.name}; programs are translated when they are first run")

        def load(device: Device = device) -> tuple[GgufFile, DeviceRunner]:
            file, runner, _ = open_runner(
                path, device, settings.cache / "programs", context=context
            )
            return file, runner

        results.append(
            simulated.measure(card, name, boot, load, arguments.prompt, arguments.generate)
        )
        device.close()
    return {"machine": machine(0), "model": path.name, "results": results}


def _tell_simulated(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        render.document(document)
        return 0
    render.text(f"{document['model']} on software cards: counts are exact, time is virtual")
    render.table(
        ("device", "boot", "round trips", "load", "of the link", "reads/token", "writes/token",
         "bytes/token", "prefill", "token"),
        [
            (
                row["device"], f"{row['virtual']['boot_s']:.3f} s",
                str(row["virtual"]["boot_round_trips"]), f"{row['virtual']['load_s']:.3f} s",
                f"{row['virtual']['load_link_share']:.0%}",
                f"{row['link']['reads_per_token']:.2f}", f"{row['link']['writes_per_token']:.2f}",
                f"{row['link']['bytes_per_token']:.1f}", f"{row['virtual']['prefill_s']:.4f} s",
                f"{row['virtual']['decode_s_per_token'] * 1e3:.3f} ms",
            )
            for row in document["results"]
        ],
    )  # fmt: skip
    return 0


def machine(busy: int) -> dict[str, Any]:
    """What the figures were measured on."""
    import os
    import platform

    from exosuit.cli.devices import processor_name
    from exosuit.kernel import Target

    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "target": Target.host(Settings.from_environment().cpu_features).name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "other_processes": busy,
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def ratios(results: list[dict[str, Any]]) -> list[str]:
    """Ours over the peer's, for each number of threads."""
    peers = {row["threads"]: row for row in results if row["engine"] != "exosuit"}
    lines: list[str] = []
    for row in results:
        peer = peers.get(row["threads"])
        if row["engine"] == "exosuit" and peer is not None:
            decode = row["decode_tok_s"] / peer["decode_tok_s"]
            prefill = row["prefill_tok_s"] / peer["prefill_tok_s"]
            lines.append(
                f"{row['threads']} threads against {peer['engine']}: "
                f"decode {decode:.2f} times, prefill {prefill:.2f} times"
            )
    return lines
