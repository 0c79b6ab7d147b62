"""What stands in the cells of a heatmap: one thing at a time, in few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.structure import Gate

#: rank by alpha; in how many of several runs it is chosen; how much the loss rises without it (`s3.explain`); alpha;
#: parameters; which gates cannot help.
Annotate = Literal["rank", "seeds", "importance", "alpha", "params", "inert"]
#: Of a gate that cannot help.
INERT = "i"


def annotation(
    kind: str,
    gates: Sequence[Gate],
    *,
    alpha: ArrayLike,
    rank: ArrayLike,
    count: ArrayLike,
    runs: ArrayLike,
    explained: Explanation | Run | None = None,
) -> tuple[list[str], str]:
    """The text of each gate's cell ("" where there is none), and what it is, in words.

    Args:
        kind: one of `Annotate`.
        gates, alpha, rank, count, runs: shape (n_gates,); `count` of `runs` chose the gate.
        explained: of ``importance``: an explanation, or a run that has one.

    Raises:
        ConfigError: `kind` is none of these; ``seeds`` of a single run, ``importance`` of several, or ranks and alpha
            that are not known. RunError: the run was not explained.
    """
    among("annotate", kind, get_args(Annotate))
    if kind == "inert":
        return [""] * len(gates), f"{INERT}: cannot help"
    if kind == "params":
        return [short_count(gate.n_params) for gate in gates], "in cells: parameters"
    if kind == "seeds":
        of = np.asarray(runs)
        if of.max(initial=0) < 2:
            raise ConfigError("annotate: expected several runs for 'seeds' (in how many a gate is chosen), found one")
        texts = [f"{int(k)}/{int(n)}" if k else "" for k, n in zip(np.asarray(count), of, strict=True)]
        return texts, "in cells: chosen in k/n runs"
    if kind == "importance":
        if explained is None:
            raise ConfigError("annotate: expected one run that was explained for 'importance' (s3.explain)")
        found = explained if isinstance(explained, Explanation) else Explanation.load(explained)
        known = {effect.gate.key: effect.loss_increase for effect in found.effects}
        return scaled([known.get(gate.key, math.nan) for gate in gates], "rise of the loss without it")
    values = np.asarray(rank if kind == "rank" else alpha, dtype=np.float64)
    if not np.isfinite(values).any():
        raise ConfigError(f"annotate: expected a run with steps or final alphas for {kind!r}, found no {kind}")
    if kind == "rank":
        return ["" if math.isnan(v) else f"{v:.0f}" for v in values], "in cells: rank"
    return scaled(values, "α")


def scaled(values: ArrayLike, words: str) -> tuple[list[str], str]:
    """Numbers as whole ones of two digits at most, by a power of ten that all share and the words name."""
    v = np.asarray(values, dtype=np.float64)
    most = float(np.nanmax(np.abs(v), initial=0)) if np.isfinite(v).any() else 0.0
    power = 1 - math.floor(math.log10(most)) if most > 0 else 0
    if most > 0 and round(most * 10.0**power) >= 100:  # 99.7 is 100
        power -= 1
    named = "" if power == 0 else f" × {10**power:,}" if 0 < power <= 6 else f" × 1e{power}"
    texts = ["" if math.isnan(one) else f"{one * 10.0**power:.0f}" for one in v]
    return ["0" if text == "-0" else text for text in texts], f"in cells: {words}{named}"


def short_count(n: int) -> str:
    """A number of parameters in four characters at most: 640, 1.2k, 64k, 2.4M."""
    if n < 1000:
        return str(n) if n else ""
    for size, sign in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        part = n / size
        if part < 9.95:
            return f"{part:.1f}".removesuffix(".0") + sign
        if round(part) < 1000:
            return f"{part:.0f}{sign}"
    return f"{n / 1e12:.0f}T"
