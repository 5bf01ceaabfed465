"""Every failure as a status of HTTP and, by the path that was asked, in its dialect's own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from exosuit.errors import (
    CardError,
    ContextFull,
    DoesNotFit,
    DownloadFailed,
    ExosuitError,
    LinkError,
    ModelNotFound,
    RequestError,
    ServerBusy,
    TemplateFailed,
    UnsupportedModel,
    UsageError,
)

# The first class that fits. A model that cannot do what is asked is 422, so that clients do not
# try again; what may pass (busy, a lost card) is 503, so that they do.
_STATUS: tuple[tuple[type[ExosuitError], int], ...] = (
    (ServerBusy, 503),
    (ContextFull, 400),
    (RequestError, 400),
    (UsageError, 400),
    (ModelNotFound, 404),
    (DoesNotFit, 422),
    (UnsupportedModel, 422),
    (TemplateFailed, 422),
    (DownloadFailed, 502),
    (LinkError, 503),
    (CardError, 503),
)


class Refusal(RequestError):
    """The server's own no, with the status it is told with; `param` names the field at fault."""

    def __init__(
        self, what: str, *, status: int = 400, param: str | None = None, cause: str, next: str
    ) -> None:
        super().__init__(what, cause=cause, next=next, status=status, param=param)


@dataclass(frozen=True)
class Problem:
    """A failure on its way to a client.

    headers  further ones of the response
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    request_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def problem_of(error: ExosuitError, request_id: str = "") -> Problem:
    """The status, and the three sentences as one text."""
    status = int(
        error.fields.get("status")
        or next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    )
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, ServerBusy):
        headers = (("retry-after", str(max(1, round(error.fields.get("retry_after_s", 1))))),)
    return Problem(
        status,
        f"{error.what}; {error.cause}; {error.next}",
        _code(error, status),
        error.fields.get("param"),
        request_id,
        headers,
    )


def _code(error: ExosuitError, status: int) -> str | None:
    match error:
        case ContextFull():
            return "context_length_exceeded"
        case ModelNotFound():
            return "model_not_found"
        case ServerBusy():
            return "server_busy"
        case DoesNotFit():
            return "model_too_large"
        case _:
            return "invalid_api_key" if status == 401 else None


class OpenaiFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenaiError(BaseModel):
    """How OpenAI's clients read an error."""

    error: OpenaiFacts


class OllamaError(BaseModel):
    """How Ollama's clients read one."""

    error: str


class AnthropicFacts(BaseModel):
    type: str
    message: str


class AnthropicError(BaseModel):
    """How Anthropic's clients read one."""

    type: Literal["error"]
    error: AnthropicFacts
    request_id: str


def told_as(error: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """For the description of a dialect's routes: whatever goes wrong is told so."""
    return {"default": {"model": error, "description": "an error, with the status that fits"}}


def body_for(path: str, problem: Problem) -> dict[str, Any]:
    """The body of the error, as clients of the path's dialect read it."""
    if path.startswith("/v1/messages"):
        return anthropic_body(problem)
    if path.startswith("/api/"):
        return {"error": problem.message}
    return openai_body(problem)


def openai_body(problem: Problem) -> dict[str, Any]:
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    error = {
        "message": problem.message,
        "type": kind,
        "param": problem.param,
        "code": problem.code,
    }
    return {"error": error}


_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_body(problem: Problem) -> dict[str, Any]:
    usual = "invalid_request_error" if problem.status < 500 else "api_error"
    error = {"type": _ANTHROPIC.get(problem.status, usual), "message": problem.message}
    return {"type": "error", "error": error, "request_id": problem.request_id}
