"""Says how many examples were tried and what came of them."""

from __future__ import annotations

from fuzz_problems import COUNT, OUTCOMES


def pytest_terminal_summary(terminalreporter):
    if COUNT:
        for name, counts in OUTCOMES.items():
            rest = ", ".join(f"{kind} {n:,}" for kind, n in counts.most_common())
            terminalreporter.write_line(f"fuzz {name}: {counts.total():,} examples: {rest}")
