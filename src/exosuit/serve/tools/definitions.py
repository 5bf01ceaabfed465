"""What a client offers its model: tools, and which of them it may, must or must not use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tool:
    """A function that the client will run.

    parameters  JSON schema of its arguments, an object
    strict      arguments must obey the schema: they are constrained to it
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: dict(NO_PARAMETERS))
    strict: bool = False

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Choice:
    """`required` forces a call, of the tool `name` if one is named; `none` forbids them."""

    kind: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True)
class CallDelta:
    """News of a tool call.

    position   of the call in the answer, from 0
    name       in the first news of a call, None later
    arguments  more of the JSON text of its arguments
    id         given by the model, where its style has ids
    """

    position: int
    name: str | None = None
    arguments: str = ""
    id: str | None = None
