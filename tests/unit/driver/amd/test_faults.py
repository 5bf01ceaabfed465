"""Reports of the card, in words."""

from __future__ import annotations

import pytest

from exosuit.driver.amd.faults import Named, explain_reports, nearest, page_fault
from exosuit.errors import CardHung, PageFault
from exosuit.silicon.amd.hub import Client as HubClient
from exosuit.silicon.amd.hub import FaultStatus
from exosuit.silicon.amd.ih import (
    Client,
    Entry,
    EntryHeader,
    Source,
    SqContext0,
    SqContext1,
    SqEncoding,
    SqError,
)

BUFFERS = [Named("weights", 0x10000, 0x4000), Named("kv", 0x20000, 0x1000)]


def report(source: Source, context0: int = 0, context1: int = 0, client: Client = Client.GFX):
    header = EntryHeader(client=client, source=source)
    return Entry.make(header=header, context0=context0, context1=context1)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (0x21040, "64 B past the end of kv"),
        (0x20800, "2 KiB into kv, whose pages do not allow it"),
        (0xFF00, "256 B before weights"),
        (0x14000, "right past the end of weights"),
    ],
)
def test_the_nearest_buffer(address: int, words: str):
    assert nearest(address, BUFFERS) == words


def test_no_buffer_at_all():
    assert nearest(0, []) == "no buffer is allocated"


def test_a_page_fault_from_the_ring_has_its_whole_address():
    found = explain_reports([report(Source.PAGE_FAULT, 0x1234_5678, 0x2)], None, BUFFERS)
    assert isinstance(found, PageFault)
    assert found.fields["address"] == 0x2123_4567_8000


def test_a_page_fault_from_registers_says_who_did_what():
    status = FaultStatus(cid=HubClient.TCP, rw=True)
    found = page_fault(0x21000, BUFFERS, status)
    assert found.what.startswith("a program on the card wrote to 0x21000")
    assert "TCP" in found.what
    assert found.fields["write"] is True


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SqError.ILLEGAL_INSTRUCTION, "illegal instruction"),
        (SqError.MEMORY_VIOLATION, "memory does not allow"),
        (SqError.EDC_FUE, "EDC_FUE"),
    ],
)
def test_errors_of_shaders(error: SqError, words: str):
    entry = report(
        Source.SQ_MESSAGE, SqContext0(error=error), SqContext1(encoding=SqEncoding.ERROR)
    )
    found = explain_reports([entry], None, [])
    assert isinstance(found, CardHung)
    assert words in found.what


@pytest.mark.parametrize(
    "entry",
    [
        report(Source.CP_END_OF_PIPE),
        report(Source.SDMA_TRAP),
        report(Source.SQ_MESSAGE, 0, SqContext1(encoding=SqEncoding.WAVE)),
        report(Source.CP_BAD_OPCODE, client=Client.THM),
    ],
)
def test_reports_that_are_no_errors(entry):
    assert explain_reports([entry], None, BUFFERS) is None


def test_the_first_error_counts():
    reports = [report(Source.CP_END_OF_PIPE), report(Source.CP_BAD_OPCODE)]
    found = explain_reports(reports, None, BUFFERS)
    assert isinstance(found, CardHung)
    assert "CP_BAD_OPCODE" in found.what
