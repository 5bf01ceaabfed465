"""The constants of `speed` against the published rows, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from exosuit.advise.measured import compare, fitted_share, measurements, rewrite, table
from exosuit.advise.speed import ENGINES

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_share_of_each_engine_is_the_fit_of_its_rows(engine: str) -> None:
    assert ENGINES[engine].share == pytest.approx(fitted_share(engine), rel=0.01)


@pytest.mark.parametrize("row", measurements(), ids=lambda row: f"{row.who}-{row.model}-{row.mix}")
def test_every_row_fits_as_it_did_for_those_who_measured(row) -> None:
    assert compare(row, ENGINES[row.engine]).fits == row.ran


def test_llama_cpp_is_predicted_within_a_quarter() -> None:
    rows = [row for row in measurements() if row.engine == "llama.cpp" and row.fits_engine]
    errors = [abs(compare(row, ENGINES["llama.cpp"]).error) for row in rows]
    assert len(errors) == 9
    assert max(errors) < 0.25
    assert median(errors) < 0.1
    prefills = [
        abs(compare(r, ENGINES["llama.cpp"]).prefill_error) for r in rows if r.prefill_tok_s
    ]
    assert max(prefills) < 0.2


def test_the_page_shows_the_table_of_today() -> None:
    page = PAGE.read_text("utf-8")
    assert table() in page, "run  python -m exosuit.advise.measured docs/plan.md"
    assert rewrite(page) == page
