"""A card that has been booted by hand."""

import pytest
from tests.softcard.bring_up import (
    Hands,
)


@pytest.fixture
def hands() -> Hands:
    made = Hands.take()
    made.boot()
    return made
