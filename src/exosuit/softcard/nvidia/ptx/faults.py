"""What can go wrong with PTX in the model."""

from __future__ import annotations


class PtxFault(Exception):
    """A program that could not be read, translated or finished.

    kind     "syntax", "instruction", "memory", "alignment", "shared memory", "diverged", "hang" or
             "launch"
    detail   for people
    address  of the memory access that failed, or 0
    write    whether that was to write
    """

    def __init__(self, kind: str, detail: str, address: int = 0, write: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.address = address
        self.write = write
