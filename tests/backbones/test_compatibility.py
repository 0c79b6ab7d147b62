"""Every backbone family under every check, and the page that says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from family_checks import CHECKS, outcome
from read_families import READ
from tiny_families import TINY

#: Of the families that are read off the model, these columns alone: all of them take two minutes.
SOME = ("insertion", "fast")

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def table() -> dict[tuple[str, str], str]:
    """(tiny model, column) -> what the page says."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)
    ]
    head = next(row for row in rows if row[0] == "backbone")
    names = {tiny.name for tiny in TINY} | set(READ)
    body = {row[0]: row for row in rows if len(row) == len(head) and row[0] in names}
    return {(name, column): cell for name, row in body.items() for column, cell in zip(head[1:], row[1:], strict=True)}


@pytest.mark.parametrize("column", CHECKS)
@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_the_page_says_what_happens(tiny, column):
    assert outcome(CHECKS[column], tiny) == table()[tiny.name, column]


@pytest.mark.filterwarnings("ignore:.*names what this backbone lacks. LoRA on FFN:UserWarning")  # of experts
@pytest.mark.parametrize("column", SOME)
@pytest.mark.parametrize("name", READ)
def test_the_page_says_what_happens_without_a_table(name, column):
    assert outcome(CHECKS[column], READ[name][0]) == table()[name, column] == "pass"


def test_the_page_has_every_model_and_column():
    names = {tiny.name for tiny in TINY} | set(READ)
    assert set(table()) == {(name, column) for name in names for column in CHECKS}
