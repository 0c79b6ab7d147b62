"""What a page is told by `s3.trust`: its card as text, which the page lays out."""

from __future__ import annotations

from typing import Any

from s3pet_viz.analysis.answers import CODES
from s3pet_viz.analysis.trust import Trust


def trust_doc(judged: Trust, step: int | None = None) -> dict[str, Any]:
    """A card. `step`: the newest one, counted from 1, of a single run; it may go on.

    Of each answer: question, answer, in words, and what it is worth (good, note, warning, problem).
    """
    levels = [CODES[answer.code] for answer in judged.answers]
    return {
        "name": judged.name,
        "verdict": judged.verdict,
        "answers": [[*row, level] for row, level in zip(judged.rows(), levels, strict=True)],
        "parts": judged.parts(),
        "open": judged.remedies(),
        "step": step,
    }
