"""When a search may end early: the structure that it would select has been the same for long enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Stability:
    """How many evaluations in a row have selected the same structure.

    The first evaluation that is seen sets the structure to compare with; each later one adds 1 where it selects the
    same gates, and begins anew with its own where it does not. So a search that is settled has selected one structure
    at `patience` + 1 evaluations in a row.

    Attributes:
        patience: evaluations that make it settled; 0: never.
        selected: indices of the gates, ascending; None before the first evaluation.
        since, latest: steps taken at the first and at the last evaluation that selected them.
        unchanged: evaluations after the first.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.selected: tuple[int, ...] | None = None
        self.since = self.latest = self.unchanged = 0

    def see(self, selected: Iterable[int], steps: int) -> None:
        """Take in one evaluation, after so many steps."""
        found = tuple(selected)
        if found == self.selected:
            self.unchanged += 1
        else:
            self.selected, self.since, self.unchanged = found, steps, 0
        self.latest = steps

    @property
    def settled(self) -> bool:
        return 0 < self.patience <= self.unchanged

    @property
    def reason(self) -> str:
        """Why the search ends, in words; steps are counted from 1."""
        return (
            f"selected structure unchanged for {self.unchanged} evaluation{'s' if self.unchanged != 1 else ''} "
            f"(steps {self.since:,} to {self.latest:,})"
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint; JSON values."""
        chosen = None if self.selected is None else list(self.selected)
        return {"selected": chosen, "since": self.since, "latest": self.latest, "unchanged": self.unchanged}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up `state` again.

        Raises:
            KeyError, TypeError, ValueError: it is not of `state`'s form.
        """
        chosen = state["selected"]
        self.selected = None if chosen is None else tuple(int(i) for i in chosen)
        self.since, self.latest, self.unchanged = (int(state[name]) for name in ("since", "latest", "unchanged"))
