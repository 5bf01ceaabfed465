"""What can go wrong with PTX in the model."""

from __future__ import annotations


class PtxFault(Exception):
    """A program that could not be read, translated or finished.

    kind    "syntax", "instruction", "memory", "alignment", "shared memory", "diverged", "hang" or
            "launch"
    detail  for people
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
