"""What a repository of the model hub holds, and which of its files a user means.

Uses the hub's documented API (GET /api/models/OWNER/REPO?blobs=true, which states size and sha256
of every large file) and its download addresses (/OWNER/REPO/resolve/REVISION/FILE);
huggingface_hub says which endpoint and token this machine uses.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast
from urllib.parse import quote

from exosuit.errors import DownloadFailed, ModelNotFound
from exosuit.models.pull_http import Download, read_json

# Which file is taken when none is named: the usual balance of size and quality, then its neighbours
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32")


@dataclass(frozen=True)
class HubFiles:
    """The files of one model, in order, and what its card says of its licence ("" if nothing)."""

    downloads: tuple[Download, ...]
    licence: str


def hub_files(repository: str, file: str, quant: str, endpoint: str | None) -> HubFiles:
    """The files in `repository` that `file` or `quant` names; "" leaves the choice to us.

    ModelNotFound lists what there is; DownloadFailed when the hub does not answer or refuses.
    """
    from huggingface_hub import constants, get_token

    base = (endpoint or constants.ENDPOINT).rstrip("/")
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = read_json(f"{base}/api/models/{quote(repository)}?blobs=true", headers)
    try:
        revision, entries, licence = _entries(answer)
        names = [name for name in entries if name.endswith(".gguf")]
        chosen = _choose(repository, sorted(names), file, quant)
        downloads = tuple(
            Download(
                f"{base}/{quote(repository)}/resolve/{quote(revision)}/{quote(name)}",
                size_bytes=entries[name].get("size"),
                sha256=entries[name]["lfs"]["sha256"] if entries[name].get("lfs") else None,
                headers=headers,
                starts_with=b"GGUF",
            )
            for name in chosen
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise DownloadFailed(
            f"{base} answered something else than the listing of {repository}",
            cause="it is not a model hub, or its API changed",
            next="check HF_ENDPOINT",
            url=base,
        ) from problem
    return HubFiles(downloads, licence)


def _entries(answer: Any) -> tuple[str, dict[str, dict[str, Any]], str]:
    """Revision, description of every file by name, licence."""
    listing = cast("list[dict[str, Any]]", answer["siblings"])
    card = cast("dict[str, Any]", answer.get("cardData") or {})
    licence = card.get("license_name") or card.get("license") or ""
    return str(answer["sha"]), {str(entry["rfilename"]): entry for entry in listing}, str(licence)


def _choose(repository: str, names: list[str], file: str, quant: str) -> list[str]:
    """One file, or all parts of a split one."""
    first = [name for name in names if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", name)]
    if file:
        matches = [name for name in first if name == file]
    elif quant:
        matches = [name for name in first if _is_quant(name, quant)]
    else:
        models = [name for name in first if "mmproj" not in name.lower()]
        ranked = [name for wanted in _PREFERRED for name in models if _is_quant(name, wanted)]
        matches = ranked[:1] or models[:1]
    if not matches:
        wanted = file or quant or "any .gguf file"
        near = difflib.get_close_matches(wanted, first, n=1, cutoff=0.3)
        raise ModelNotFound(
            f"{repository} has no {wanted}",
            cause="it has " + (", ".join(first[:12]) or "no GGUF files"),
            next=f"exosuit pull {repository}/{near[0]}" if near else "choose another repository",
            repository=repository,
            files=first,
        )
    start = min(matches, key=len)
    split = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", start)
    if split is None:
        return [start]
    parts = [f"{split[1]}-{n:05d}-of-{split[2]}.gguf" for n in range(1, int(split[2]) + 1)]
    missing = sorted(set(parts) - set(names))
    if missing:
        raise ModelNotFound(
            f"{repository} lacks {missing[0]}",
            cause="its owner has not uploaded every part of this model",
            next="choose another file or repository",
            repository=repository,
            missing=missing,
        )
    return parts


def _is_quant(name: str, quant: str) -> bool:
    """Whether the file's name has `quant` as a word: Q4_K is not in Q4_K_M."""
    stem = PurePosixPath(name).name.removesuffix(".gguf")
    return re.search(rf"(?i)(?:^|[-.]){re.escape(quant)}(?:$|[-.])", stem) is not None
