"""The kinds of findings of `health`, and how they are shown."""

from __future__ import annotations

import html
from typing import Literal, NamedTuple

Level = Literal["good", "note", "warning", "problem"]
#: Of a level, on a light ground.
COLOURS = {"good": "#00694c", "note": "#3e4c59", "warning": "#9a5b00", "problem": "#b42318"}
LEVELS = tuple(COLOURS)[::-1]

#: Kinds of findings by code: how bad, and the title. docs/search.md says when each is found.
FINDINGS: dict[str, tuple[Level, str]] = {
    "nothing-unusual": ("good", "Nothing unusual"),
    "no-steps": ("note", "No steps yet"),
    "search-failed": ("problem", "The search failed"),
    "search-died": ("problem", "The search died"),
    "stopped-early": ("note", "The search stopped early"),
    "loss-not-finite": ("problem", "The loss is not finite"),
    "loss-rose": ("warning", "The validation loss rose"),
    "loss-did-not-fall": ("warning", "The validation loss did not fall"),
    "not-learned": ("warning", "The task was not learned"),
    "pruned-unlearned": ("problem", "The gates were pruned before the task was learned"),
    "pruned-lost": ("warning", "What was learned was lost while the budget shrank"),
    "few-steps": ("warning", "Few steps"),
    "not-separated": ("warning", "The gates have hardly separated"),
    "still-moving": ("warning", "Gates are still moving"),
    "one-pet-type": ("warning", "Almost all chosen gates are"),
    "budget-not-binding": ("note", "The budget does not bind"),
    "budget-not-kept": ("problem", "The budget is not kept"),
    "budget-unused": ("note", "Part of the budget is unused"),
    "seeds-by-chance": ("problem", "Seeds agree no better than chance"),
    "seeds-disagree": ("warning", "Seeds disagree"),
}


class Finding(NamedTuple):
    """One thing seen: its code (of `FINDINGS`), how bad it is (good, note, warning, problem), a short title, and what
    was seen and what to do. A title may name a run or a PET type: tell findings apart by their code.
    """

    code: str
    level: Level
    title: str
    text: str


#: What a rule looks at; it says in words what it saw in order, yields a finding for what is not, or nothing where the
#: run lacks the numbers.
Seen = Finding | str


class Findings(list[Finding]):
    """Findings, worst first; shown as sentences."""

    def __repr__(self) -> str:
        return "\n".join(f"{f.level}: {f.title}. {f.text}" for f in self)

    def _repr_html_(self) -> str:
        lines = (
            f"<li><b style='color:{COLOURS[f.level]}'>{html.escape(f.title)}.</b> {html.escape(f.text)}</li>"
            for f in self
        )
        return f"<ul>{''.join(lines)}</ul>"


def found(code: str, text: str, which: str = "") -> Finding:
    """A finding of this kind; `which` ends its title."""
    level, title = FINDINGS[code]
    return Finding(code, level, f"{title} {which}".rstrip(), text)
