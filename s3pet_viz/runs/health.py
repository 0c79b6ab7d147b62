"""Search health in words: what a run's numbers say about whether its structure can be trusted.

Each finding is a rule of thumb with one threshold, a constant below; none of them proves anything.
"""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from s3pet_viz.runs.measures import chance_overlap, entropy, expected_params, jaccard, random_structures
from s3pet_viz.runs.reader import Run
from s3pet_viz.structure import Structure, select
from s3pet_viz.structure.budget import budget_at

Level = Literal["good", "note", "warning", "problem"]
_COLOURS = {"good": "#00694c", "note": "#3e4c59", "warning": "#9a5b00", "problem": "#b42318"}

#: The task was not learned where the training loss ends above this share of what one answer to every row would have.
UNLEARNED = 0.95
#: Gates still move where the structure of 80 % of the way shares less than this with the last one (Jaccard).
MOVING = 0.8
_MOVING_FROM = 0.8
#: Gates have hardly separated where the mean entropy is above this share of what equal gates would have.
UNDECIDED = 0.95
#: A run shorter than this many steps is too short for alpha (rate 0.1) to travel: 0.1 x 50 = 5 in logits at most.
FEW_STEPS = 50
#: One PET type has taken over where it holds this share of the chosen gates ...
COLLAPSE = 0.9
#: ... though it has no more than this share of the search space; fewer chosen gates than this say nothing.
_COLLAPSE_SPACE, _COLLAPSE_GATES = 0.75, 4
#: Part of the budget that a structure should use.
UNUSED = 0.9
#: Expected parameters may differ from the budget by this, relatively: the solver is exact to 1e-7, p is float32.
OFF_BUDGET = 1e-3
#: Seeds disagree below this mean Jaccard; and are no better than chance inside the band of random structures.
DISAGREE = 0.5
_DRAWS = 200


class Finding(NamedTuple):
    """One thing seen: how bad (good, note, warning, problem), a short title, and what was seen and what to do."""

    level: Level
    title: str
    text: str


class Findings(list[Finding]):
    """Findings, worst first; shown as sentences."""

    def __repr__(self) -> str:
        return "\n".join(f"{f.level}: {f.title}. {f.text}" for f in self)

    def _repr_html_(self) -> str:
        lines = (
            f"<li><b style='color:{_COLOURS[f.level]}'>{html.escape(f.title)}</b> {html.escape(f.text)}</li>"
            for f in self
        )
        return f"<ul>{''.join(lines)}</ul>"


def health(runs: Run | Sequence[Run]) -> Findings:
    """What to know before trusting a structure, worst first; one finding "Nothing unusual" where all is well.

    Args:
        runs: one run, or several: each is looked at, and then how far runs of one question (task, backbone,
            budget, mode) that differ by their seed agree.

    Raises:
        RunError: a run is damaged.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    found = []
    for run in several:
        for finding in _of_run(run):
            title = finding.title if len(several) == 1 else f"{run.name}: {finding.title}"
            found.append(finding._replace(title=title))
    if len(several) > 1:
        found += _of_seeds(several)
    if not found:
        found.append(Finding("good", "Nothing unusual", "No rule of thumb found anything to say about this search."))
    worst = ["problem", "warning", "note", "good"]
    return Findings(sorted(found, key=lambda finding: worst.index(finding.level)))


def _of_run(run: Run) -> Iterator[Finding]:
    yield from _life(run)
    if not run.n_steps:
        yield Finding("note", "No steps yet", "The search has not recorded a step, so there is nothing to judge.")
        return
    for rule in _RULES:
        yield from rule(run)


def _life(run: Run) -> Iterator[Finding]:
    status, error = run.status, run.error
    if status in ("failed", "dead"):
        what = "failed" if status == "failed" else "is dead: its process is gone without a word"
        said = f" Its last error: {error.rstrip('.')}." if error else ""
        yield Finding(
            "problem", f"The search {status if status == 'failed' else 'died'}",
            f"The search {what} after {run.n_steps:,} steps.{said} Its recorded steps can be read; resume it to go on.",
        )  # fmt: skip
    early = run.early_stop
    if early:
        yield Finding(
            "note", "The search stopped early",
            f"It finished {early}. Its learning rates had not come down to 0: that the structure rested is no proof "
            "that it would have stayed.",
        )  # fmt: skip


def _losses(run: Run) -> Iterator[Finding]:
    steps = run.steps()
    # A shrinking budget raises the loss by itself: such a search is judged from where the budget stays.
    shrunk = sum(_open_start(run))
    loss = steps["val_loss"].to_numpy()[shrunk:]
    known = loss[~np.isnan(loss)]
    if not np.isfinite(known).all():
        yield Finding(
            "problem", "The loss is not finite",
            "The validation loss became infinite, so alpha follows noise. Lower the learning rate.",
        )  # fmt: skip
        return
    fifth = len(known) // 5
    if fifth < 4:
        return
    first, last = known[:fifth], known[-fifth:]
    noise = 2 * np.hypot(first.std(ddof=1), last.std(ddof=1)) / np.sqrt(fifth)
    if last.mean() > first.mean() + noise:
        yield Finding(
            "warning", "The validation loss rose",
            f"It was {first.mean():.3g} in the first fifth of the search and {last.mean():.3g} in the last. "
            "Lower the learning rate, or stop earlier.",
        )  # fmt: skip
    elif not shrunk and last.mean() > first.mean() - noise:
        yield Finding(
            "warning", "The validation loss did not fall",
            f"It was {first.mean():.3g} in the first fifth of the search and {last.mean():.3g} in the last, "
            "no more than its noise. The PET weights have learned little: raise the learning rate or the steps.",
        )  # fmt: skip


def _unlearned(run: Run) -> Iterator[Finding]:
    constant = run.info.get("constant_loss")
    loss = run.steps()["train_loss"].to_numpy()
    if not constant or len(loss) < 20:
        return
    last = float(loss[-(len(loss) // 5) :].mean())
    if last > UNLEARNED * constant:
        yield Finding(
            "warning", "The task was not learned",
            f"The training loss ended at {last:.3g}; one answer to every row would have {constant:.3g}. So the search "
            "learned which answers there are and not which is right, and chose gates for that. Search longer, at "
            "another learning rate, or from open gates (open_steps and shrink_steps).",
        )  # fmt: skip


def _length(run: Run) -> Iterator[Finding]:
    if run.n_steps < FEW_STEPS:
        longer = f"Search for {FEW_STEPS} steps or more, better a few hundred."
        if run.early_stop:
            longer = "Let stop_when_stable or eval_every be larger, so that the search goes on for longer."
        rest = longer if run.ended else "It is not over yet."
        yield Finding(
            "note" if not run.ended else "warning", "Few steps",
            f"{run.n_steps:,} steps were taken; alpha has hardly had the time to move. {rest}",
        )  # fmt: skip


def _separation(run: Run) -> Iterator[Finding]:
    counts = run.counts
    p = run.p().astype(np.float64)
    # Equal gates, all at p = expected size over total, have the largest mean entropy at this expected size
    # (exactly so where all gates are of one size: the entropy is concave).
    equal = float(np.clip(expected_params(p, counts) / counts.sum(), 0, 1))
    most, now = float(entropy(equal)), float(entropy(p).mean())
    if most > 0 and now > UNDECIDED * most:
        yield Finding(
            "warning", "The gates have hardly separated",
            f"The mean gate entropy is {now:.3g} bits, {now / most:.0%} of what equal gates would have: the order of "
            "the gates is mostly noise. Search longer, or raise the alpha learning rate.",
        )  # fmt: skip


def _moving(run: Run) -> Iterator[Finding]:
    budget = run.info["budget"]
    if not budget or run.n_steps < 10:
        return
    alphas = run.alphas()
    at = int(_MOVING_FROM * (len(alphas) - 1))
    before, after = (_chosen(run, alphas[i], budget) for i in (at, len(alphas) - 1))
    share = jaccard(before, after)
    if share < MOVING:
        yield Finding(
            "warning", "Gates are still moving",
            f"{len(after - before)} of the {len(after)} chosen gates came in during the last fifth of the steps "
            f"(overlap {share:.2f} with the structure before). Search longer before you read the structure.",
        )  # fmt: skip


def _collapse(run: Run) -> Iterator[Finding]:
    if not run.info["budget"]:
        return
    chosen = Counter(g.pet_type for g in run.structure().gates)
    space = Counter(g.pet_type for g in run.gates_list)
    total = sum(chosen.values())
    if not total:
        return
    pet_type, most = chosen.most_common(1)[0]
    among = space[pet_type] / len(run.gates_list)
    if total >= _COLLAPSE_GATES and most / total >= COLLAPSE and among <= _COLLAPSE_SPACE:
        yield Finding(
            "warning", f"Almost all chosen gates are {pet_type}",
            f"{most} of {total} chosen gates are {pet_type}, which is {among:.0%} of the search space. At a small "
            "budget cheap gates crowd out the others: compare with a larger budget or a space without it.",
        )  # fmt: skip


def _budget(run: Run) -> Iterator[Finding]:
    budget = run.info["budget"]
    if not budget:
        return
    total = int(run.counts.sum())
    if budget > total:
        yield Finding(
            "note", "The budget does not bind",
            f"The budget of {budget:,} parameters holds the whole search space ({total:,}): nothing was searched for.",
        )  # fmt: skip
        return
    held = budget_at(run.n_steps - 1, budget, total, *_open_start(run))
    expected = float(expected_params(run.p(), run.counts))
    if abs(expected / held - 1) > OFF_BUDGET:
        yield Finding(
            "problem", "The budget is not kept",
            f"{expected:,.1f} parameters are expected in use, but the budget is {held:,.0f}. The recorded p do not "
            "belong to this budget; do not trust this run.",
        )  # fmt: skip
    used = run.structure().n_params
    if used < UNUSED * budget:
        yield Finding(
            "note", "Part of the budget is unused",
            f"The structure has {used:,} of {budget:,} parameters ({used / budget:.0%}): no gate that is left is small "
            "enough for the rest. A slightly different budget may fit the modules better.",
        )  # fmt: skip


def _open_start(run: Run) -> list[int]:
    """Its `open_steps` and `shrink_steps`; 0 for what is no number of steps."""
    given = [run.config.get(name) for name in ("open_steps", "shrink_steps")]
    return [v if type(v) is int and v > 0 else 0 for v in given]


def _of_seeds(runs: Sequence[Run]) -> Iterator[Finding]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.n_steps and run.info["budget"]:
            facts = (run.config.get("task"), run.info["backbone"], run.info["budget"], run.config.get("mode"))
            groups.setdefault(tuple(map(str, facts)), []).append(run)
    for group in groups.values():
        if len(group) > 1 and len({tuple(g.key for g in run.gates_list) for run in group}) == 1:
            yield from _agreement(group)


def _agreement(group: Sequence[Run]) -> Iterator[Finding]:
    structures: list[Structure] = [run.structure() for run in group]
    mean = float(np.mean([jaccard(a, b) for a, b in itertools.combinations(structures, 2)]))
    counts, budget = group[0].counts, group[0].info["budget"]
    draws = [random_structures(counts, budget, draws=_DRAWS, seed=seed) for seed in (0, 1)]
    chance = chance_overlap(*draws)
    task = str(group[0].config.get("task") or group[0].name).rstrip("/").rpartition("/")[2]
    seen = f"The structures of {len(group)} runs on {task} overlap by {mean:.2f} on average (Jaccard)"
    if mean <= chance.high:
        yield Finding(
            "problem", "Seeds agree no better than chance",
            f"{seen}; random structures of this budget overlap by {chance.mean:.2f} (95 %: {chance.low:.2f} to "
            f"{chance.high:.2f}). A single run's structure says nothing: search longer and use the consensus.",
        )  # fmt: skip
    elif mean < DISAGREE:
        yield Finding(
            "warning", "Seeds disagree",
            f"{seen}, though chance gives only {chance.mean:.2f}. Read what the seeds share (the consensus), not "
            "single gates of one run.",
        )  # fmt: skip


def _chosen(run: Run, alpha: np.ndarray, budget: float) -> frozenset[tuple[str, str]]:
    return frozenset(run.gates_list[i].key for i in select(alpha, run.counts, budget))


_RULES: tuple[Callable[[Run], Iterator[Finding]], ...] = (
    _losses, _unlearned, _length, _separation, _moving, _collapse, _budget,
)  # fmt: skip
