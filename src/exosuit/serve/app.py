"""The app: every front door, behind one set of rules, on one `Service`.

Knows which rooms there are and how failures are told; what is said in them is theirs.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from exosuit.errors import ExosuitError
from exosuit.serve import anthropic, health, ollama, openai, texts, web
from exosuit.serve.problems import Problem, body_for, problem_of
from exosuit.serve.safety import Guard, Rules
from exosuit.serve.sending import Json
from exosuit.serve.service import Service

_LOG = logging.getLogger(__name__)


def make_app(service: Service, rules: Rules | None = None) -> FastAPI:
    """The app of `service`, to be run by one server on the service's event loop."""
    app = FastAPI(
        title="exosuit",
        version=version("exosuit"),
        description="Local models, in the dialects of OpenAI, Ollama and Anthropic.",
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        separate_input_output_schemas=False,
    )
    app.state.service = service
    for room in (openai, ollama, anthropic, texts, web, health):
        app.include_router(room.router())
    app.add_middleware(Guard, rules=rules or Rules())
    app.add_exception_handler(ExosuitError, _ours)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _tell(request: Request, problem: Problem) -> Response:
    return Json(body_for(request.url.path, problem), problem.status, dict(problem.headers))


async def _ours(request: Request, error: Exception) -> Response:
    problem = problem_of(cast("ExosuitError", error), _id(request))
    if problem.status >= 500:
        _LOG.warning("a request failed", extra={"request_id": _id(request), "problem": str(error)})
    return _tell(request, problem)


async def _misread(request: Request, error: Exception) -> Response:
    """The first of what pydantic found, in a sentence; never the value, which may be a prompt."""
    found = cast("list[dict[str, Any]]", cast("RequestValidationError", error).errors())
    first = max(found, key=lambda entry: len(entry["loc"]))
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    if first["type"] == "extra_forbidden":
        message = f"{place}: unknown field"
        code = "unknown_parameter"
    elif first["type"] == "json_invalid":
        message, code = "the body is no JSON", None
    else:
        message, code = f"{place}: {first['msg']}", None
    return _tell(request, Problem(400, message, code, place, _id(request)))


async def _unrouted(request: Request, error: Exception) -> Response:
    refused = cast("HTTPException", error)
    message = {
        404: f"there is nothing at {request.url.path[:200]}",
        405: f"{request.url.path[:200]} does not take {request.method}",
        400: "the body cannot be read",
    }.get(refused.status_code, str(refused.detail))
    headers = tuple((refused.headers or {}).items())
    return _tell(request, Problem(refused.status_code, message, None, None, _id(request), headers))


async def _unforeseen(request: Request, error: Exception) -> Response:
    """A fault of our own; the server's log has it."""
    message = "the server has a fault of its own; its log tells more"
    return _tell(request, Problem(500, message, request_id=_id(request)))


def _id(request: Request) -> str:
    return getattr(request.state, "request_id", "")
