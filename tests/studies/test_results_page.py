"""docs/results.md says what the recorded studies say, and is short."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks/studies")
    import write_results

    yield write_results
    for name in ("write_results", "print_study", "studies_common", "pack"):
        sys.modules.pop(name, None)


def test_it_has_at_most_150_lines_and_one_figure():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.count("![") == 1


@pytest.mark.parametrize(("page", "name"), [("docs/results.md", "pays"), ("docs/results.md", "real"), ("docs/results.md", "kept"), ("README.md", "in short")])
def test_tables_are_those_of_the_recorded_studies(written, page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    made = written.SHORT[ROOT / page]
    assert f"<!-- {name} -->\n{made[name]()}\n<!-- /{name} -->" in text
    assert set(made) == set(re.findall("<!-- /(.*) -->", text))


def test_every_table_stands_beside_its_study(written):
    for name in written.PRINTED:
        page = (ROOT / "data/studies" / name / "TABLES.md").read_text(encoding="utf-8")
        assert page.count("\n| ") > 10
        assert f"(../data/studies/{name}/TABLES.md)" in (ROOT / "docs/results.md").read_text(encoding="utf-8")
