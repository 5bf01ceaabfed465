"""Schemathesis calls a server as its OpenAPI description says, and as it does not.

No 5xx, no hang, nothing undocumented: whatever is served fits the description, and what does not
fit it is refused. Answers are kept short, and most of them are asked of a model that is there.
"""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from exosuit.serve.app import make_app
from exosuit.serve.service import Service

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
SHORT = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """A model that is there instead of any text, and few tokens instead of any number."""
    if not isinstance(body, dict):
        return body
    path = context.operation.path
    model = body.get("model")
    if isinstance(model, str) and len(model) <= 300 and path != "/api/delete":
        body["model"] = "stories" if "completions" in path or "generate" in path else "smollm2"
    for field in SHORT.get(path, ()):
        value = body.get(field)
        if type(value) is int and value >= 1:
            body[field] = min(value, 3)
    if path in ("/v1/chat/completions", "/v1/completions") and "max_tokens" not in body:
        body["max_tokens"] = 3
    if path == "/v1/responses" and "max_output_tokens" not in body:
        body["max_output_tokens"] = 3
    if path in ("/api/chat", "/api/generate") and not body.get("options"):
        body["options"] = {"num_predict": 3}
    return body


DESCRIBED = make_app(cast("Service", None)).openapi()
OPERATIONS = {
    operation.label: operation
    for operation in (
        r.ok() for r in schemathesis.openapi.from_dict(DESCRIBED).get_all_operations()
    )
    if operation.path != "/api/pull"  # would fetch things
}


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_server_is_as_it_is_described(
    label: str, mode: schemathesis.GenerationMode, served
) -> None:
    operation = OPERATIONS[label]

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=served.address, checks=CHECKS, timeout=60)

    try:
        check()
    except Unsatisfiable:
        pytest.skip("nothing can be wrong with it")


def test_every_route_is_described(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    json.dumps(described)
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models",
        "/v1/messages", "/v1/messages/count_tokens", "/api/chat", "/api/generate", "/api/tags",
        "/api/show", "/api/ps", "/api/pull", "/api/delete", "/api/copy", "/api/embed",
        "/api/embeddings", "/api/version", "/tokenize", "/detokenize", "/health", "/ready",
    ):  # fmt: skip
        assert path in described["paths"], path
