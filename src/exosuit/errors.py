"""Every error that a user, a file or a card can cause, and how it is told.

An `ExosuitError` carries three sentences: what happened, the likely cause, the next command to
type. The command line prints them, the server renders them as JSON, tests compare fields.
`assert` is for our own impossibilities only. The tree:

    ExosuitError
        UsageError                      the request itself is wrong (exit status 2)
        LinkError                       the way to the card
            LinkLost  PermissionNeeded  CardBusy  HelperMissing  ProtocolError
        CardError                       the card
            UnsupportedCard  BootFailed  CardHung  PageFault
        KernelError                     the kernel language
            CompileFailed  NotOnTarget  ShapeMismatch
        ModelError                      files and what they hold
            CorruptFile  UnsupportedModel  DoesNotFit  ModelNotFound  DownloadFailed
            TemplateFailed
        RequestError                    one request to the engine
            ContextFull  ServerBusy
        PeerError                       another engine that we are compared with
"""

from __future__ import annotations

from typing import Any


class ExosuitError(Exception):
    """What happened (`what`), why probably (`cause`), what to type next (`next`).

    Further keyword arguments become `fields`: the facts behind the sentences, for tests and logs.
    """

    exit_status = 1

    def __init__(self, what: str, *, cause: str, next: str, **fields: Any) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.next = next
        self.fields = fields

    def __str__(self) -> str:
        return f"error: {self.what}\ncause: {self.cause}\nnext:  {self.next}"


class UsageError(ExosuitError):
    exit_status = 2


class LinkError(ExosuitError): ...


class LinkLost(LinkError): ...


class PermissionNeeded(LinkError): ...


class CardBusy(LinkError): ...


class HelperMissing(LinkError): ...


class ProtocolError(LinkError): ...


class CardError(ExosuitError): ...


class UnsupportedCard(CardError): ...


class BootFailed(CardError): ...


class CardHung(CardError): ...


class PageFault(CardError): ...


class KernelError(ExosuitError): ...


class CompileFailed(KernelError): ...


class NotOnTarget(KernelError): ...


class ShapeMismatch(KernelError): ...


class ModelError(ExosuitError): ...


class CorruptFile(ModelError): ...


class UnsupportedModel(ModelError): ...


class DoesNotFit(ModelError): ...


class ModelNotFound(ModelError): ...


class DownloadFailed(ModelError): ...


class TemplateFailed(ModelError): ...


class RequestError(ExosuitError): ...


class ContextFull(RequestError): ...


class ServerBusy(RequestError):
    """More is asked of the server than it takes; `retry_after_s` says when to ask again."""


class PeerError(ExosuitError): ...
