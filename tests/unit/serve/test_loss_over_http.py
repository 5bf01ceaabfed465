"""A device lost under fifty HTTP streams: they go on, or end with the dialect's own error."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from tests.unit.serve.rooms import FailingDevice, Rooms, cpu, serve

from exosuit.serve.app import make_app


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Rooms:
    return Rooms(tmp_path_factory.mktemp("rooms"), names=("small",))


def body(k: int) -> dict:
    return {"model": "small", "prompt": f"{k} " * (3 + k % 20), "max_tokens": 6 + k % 9,
            "temperature": 0, "stream": True}  # fmt: skip


async def read(client: httpx.AsyncClient, k: int) -> tuple[str, str | None, dict | None]:
    """Text, how it ended, and the error that it ended with."""
    text, end, error = "", None, None
    async with client.stream("POST", "/v1/completions", json=body(k)) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                found = json.loads(line[6:])
                error = found.get("error", error)
                for choice in found.get("choices", ()):
                    text += choice["text"]
                    end = choice["finish_reason"] or end
    return text, end, error


async def fifty(service, device: FailingDevice | None, after: int = 15):
    """Load, then fifty at once; the device is lost after so many steps."""
    (await service.open("")).release()
    if device is not None:
        device.left = after
    transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        found = await asyncio.gather(*(read(client, k) for k in range(50)))
        assert (await client.get("/health")).status_code == 200
        later = await client.post("/v1/completions", json=body(0) | {"stream": False})
        return found, later


def test_all_go_on_at_the_next_device(rooms):
    device = FailingDevice("card", 10**9)
    service = rooms.service(
        devices=["card", "cpu"], opener=lambda name: device if name == "card" else cpu()
    )
    found, later = serve(service, lambda service: fifty(service, device))
    expected, _ = serve(rooms.service(), lambda service: fifty(service, None))
    assert device.left == 0, "it was lost"
    assert found == expected
    assert later.status_code == 200


def test_all_end_with_the_error_where_there_is_none(rooms):
    device = FailingDevice("card", 10**9)
    service = rooms.service(devices=["card"], opener=lambda name: device)
    found, later = serve(service, lambda service: fifty(service, device))
    failed = [error for _, _, error in found if error is not None]
    assert len(failed) > 25
    assert all("no other could take over" in error["message"] for error in failed)
    assert all(end is not None for _, end, error in found if error is None)
    assert later.status_code >= 500
    assert "error" in later.json()
