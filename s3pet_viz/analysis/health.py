"""Search health in words: what a run's numbers say about whether its structure can be trusted.

Each finding is a rule of thumb with one threshold, a constant below; none of them proves anything.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from s3pet_viz.analysis.findings import LEVELS, Finding, Findings, Seen, found
from s3pet_viz.analysis.learned import at_budget_from, losses, open_start, unlearned
from s3pet_viz.analysis.measures import chance_overlap, entropy, jaccard, random_structures, spearman
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, RunLike, open_sources
from s3pet_viz.structure import Structure, select
from s3pet_viz.structure.budget import budget_at, expected_params
from s3pet_viz.structure.units import by_rank, rank_keys

#: Gates still move where the structure of 80 % of the way shares less than this with the last one (Jaccard).
MOVING = 0.8
_MOVING_FROM = 0.8
#: Gates have hardly separated where the entropy is above this share of what equal gates would have.
UNDECIDED = 0.95
#: Their order is steady from this rank correlation on.
_STEADY = 0.9
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

Rule = Callable[[Run], Iterator[Seen]]


def health(runs: RunLike | Iterable[RunLike]) -> Findings:
    """What to know before trusting a structure, worst first; one finding "nothing-unusual" where all is well, which
    lists what was looked at.

    Args:
        runs: a run, or what names one; or several: each is looked at, and then how far runs of one question (task,
            backbone, budget, mode) that differ by their seed agree.

    Raises:
        RunError: a run is damaged, or something else than a run.
    """
    return judged(open_sources(runs, allow=RUN, what="health"))


def judged(runs: Sequence[Run]) -> Findings:
    """`health` of open runs."""
    findings: list[Finding] = []
    well: dict[str, list[str]] = {}
    every = [(f"{run.name}: " if len(runs) > 1 else "", name, seen) for run in runs for name, seen in _of_run(run)]
    for whose, name, seen in [*every, *(("", _SEEDS, seen) for seen in _of_seeds(runs))]:
        if isinstance(seen, str):
            well.setdefault(name, []).append(seen)
        else:
            findings.append(seen._replace(title=f"{whose}{seen.title}"))
    if not findings:
        findings.append(found("nothing-unusual", _said(runs, well)))
    return Findings(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def _said(runs: Sequence[Run], well: dict[str, list[str]]) -> str:
    """What was looked at, with its numbers where it is one run, and what could not be."""
    one = len(runs) == 1
    text = "No rule of thumb found anything to say. Looked at: "
    text += "; ".join(f"{name} ({seen[0]})" if one or name == _SEEDS else name for name, seen in well.items()) + "."
    lacking = [name for name in _RULES if len(well.get(name, [])) < len(runs)]
    if lacking:
        text += f" Not looked at{'' if one else ' in every run'}, for lack of numbers: {', '.join(lacking)}."
    if going := sum(not run.ended for run in runs):
        text += " The search is not over yet." if one else f" {going} of the {len(runs)} searches are not over yet."
    return text


def _of_run(run: Run) -> Iterator[tuple[str, Seen]]:
    for name, rule in _RULES.items():
        if run.n_steps or name == _END:
            for seen in rule(run):
                yield name, seen
    if not run.n_steps:
        yield _END, found("no-steps", "The search has not recorded a step, so there is nothing to judge.")


def _end(run: Run) -> Iterator[Seen]:
    status, error, early = run.status, run.error, run.early_stop
    if status in ("failed", "dead"):
        what = "failed" if status == "failed" else "is dead: its process ended without saying so,"
        said = f" Its last error: {error.rstrip('.')}." if error else ""
        steps = f" Its {run.n_steps:,} recorded steps can be read; resume it to go on." if run.n_steps else ""
        yield found(
            "search-failed" if status == "failed" else "search-died",
            f"The search {what} after {run.n_steps:,} steps.{said}{steps}",
        )
    elif early:
        rate = run.steps()["lr"].to_numpy()
        left = rate[-1] / rate[0] if len(rate) and rate[0] > 0 else 0.0
        why = f" The learning rate was still {left:.0%} of the first." if left >= 0.005 else ""
        if _rested(run):
            why += " That the structure rested is no proof that it would have stayed."
        yield found("stopped-early", f"It finished {early}.{why}")
    elif run.ended:
        yield f"{status} after {run.n_steps:,} steps"


def _rested(run: Run) -> bool:
    """Whether it ended early because its structure did not change."""
    return "unchanged" in (run.early_stop or "")


def _length(run: Run) -> Iterator[Seen]:
    if run.n_steps >= FEW_STEPS:
        yield f"{run.n_steps:,}"
        return
    longer = f"Search for {FEW_STEPS} steps or more, better a few hundred."
    if _rested(run):
        longer = "Let stop_when_stable or eval_every be larger, so that the search goes on for longer."
    rest = longer if run.ended else "It is not over yet."
    alphas = run.alphas()
    moved = float(np.abs(alphas[-1] - alphas[0]).max())
    few = found("few-steps", f"{run.n_steps:,} steps were taken, in which alpha moved by {moved:.2g} at most. {rest}")
    yield few if run.ended else few._replace(level="note")


def _separation(run: Run) -> Iterator[Seen]:
    counts = run.counts
    p = run.p().astype(np.float64)
    # Equal gates, all at p = expected size over total, have the largest entropy at this expected size: of the mean over
    # parameters always (entropy is concave), of the mean over gates where all gates are of one size. Both must be near
    # it: small gates that are half open have more than equal gates, though large ones are shut.
    equal = float(np.clip(expected_params(p, counts) / counts.sum(), 0, 1))
    most, bits = float(entropy(equal)), entropy(p)
    if most <= 0:
        return
    share = float(min(bits.mean(), bits @ counts / counts.sum()) / most)
    if share <= UNDECIDED:
        yield f"gate entropy {share:.0%} of what equal gates would have"
        return
    alphas = run.alphas()
    rho = spearman(alphas[int(_MOVING_FROM * (len(alphas) - 1))], alphas[-1])
    if np.isnan(rho):
        order = "all alpha are equal, so the gates have no order"
    elif rho < _STEADY:
        order = f"their order still changes (rank correlation {rho:.2f} over the last fifth of the steps)"
    else:
        order = f"their order was the same over the last fifth of the steps (rank correlation {rho:.2f}), by little"
    yield found(
        "not-separated",
        f"The gate entropy is {share:.0%} of what equal gates would have: {order}. Search longer, or raise the alpha "
        "learning rate.",
    )


def _moving(run: Run) -> Iterator[Seen]:
    if not run.info["budget"] or run.n_steps < 10:
        return
    budget = run.searched_budget()
    alphas = run.alphas()
    at = int(_MOVING_FROM * (len(alphas) - 1))
    before, after = (_chosen(run, alphas[i], budget) for i in (at, len(alphas) - 1))
    share = jaccard(before, after)
    if share >= MOVING:
        yield f"overlap {share:.2f} of the structures before and after the last fifth of the steps"
        return
    came = f"{len(after - before)} of the {len(after)} chosen gates came in during the last fifth of the steps"
    if len(before - after):
        came += f" and {len(before - after)} went"
    rest = "Search longer before you read the structure." if run.ended else "It is not over yet."
    text = f"{came} (overlap {share:.2f} with the structure before). {rest}"
    yield found("still-moving", text)


def _collapse(run: Run) -> Iterator[Seen]:
    if not run.info["budget"]:
        return
    chosen = Counter(g.pet_type for g in run.structure(pinned=False).gates)
    space = Counter(g.pet_type for g in run.gates_list)
    total = sum(chosen.values())
    if total < _COLLAPSE_GATES:
        return
    pet_type, most = chosen.most_common(1)[0]
    among = space[pet_type] / len(run.gates_list)
    if most / total < COLLAPSE or among > _COLLAPSE_SPACE:
        yield f"{most} of {total} chosen gates are {pet_type}, as are {among:.0%} of the search space"
        return
    # Only a type that is cheaper than the others is favoured by a small budget.
    mine, others = (
        np.median([g.n_params for g in run.gates_list if (g.pet_type == pet_type) == same]) for same in (True, False)
    )
    sizes = f"its gates have {mine:,g} parameters in the median, the others {others:,g}"
    small = f"{run.searched_budget() / run.counts.sum():.2g} of all the gates' parameters"
    if mine < others:
        why = f"It is cheap ({sizes}): at this budget ({small}) cheap gates may crowd out the others."
    elif mine > others:
        why = f"Not for being cheap: {sizes}. So it was chosen against its cost, which leaves room for fewer gates."
    else:
        why = f"Its cost does not say why: {sizes}, too."
    yield found(
        "one-pet-type",
        f"{most} of {total} chosen gates are {pet_type}, which is {among:.0%} of the search space. {why} Compare with "
        "a larger budget or a space without it.",
        pet_type,
    )


def _budget(run: Run) -> Iterator[Seen]:
    if not run.info["budget"]:
        return
    budget, total = run.searched_budget(), int(run.counts.sum())
    if budget >= total:
        yield found(
            "budget-not-binding",
            f"The budget of {budget:,} parameters holds the whole search space ({total:,}): nothing was searched for.",
        )
        return
    expected = float(expected_params(run.p(), run.counts))
    held = budget_at(int(run.steps()["step"].iloc[-1]), budget, total, *open_start(run))
    if (at_budget_from(run) or 0) >= run.n_steps:
        held = float(np.clip(expected, budget, total))  # the step log does not say how far it has shrunk
    if abs(expected / held - 1) > OFF_BUDGET:
        yield found(
            "budget-not-kept",
            f"{expected:,.1f} parameters are expected in use, but the budget is {held:,.0f}. The recorded p do not "
            "belong to this budget; do not trust this run.",
        )
    else:
        yield f"{expected:,.1f} parameters expected in use, of {held:,.0f}"


def _unused(run: Run) -> Iterator[Seen]:
    if not run.info["budget"] or (budget := run.searched_budget()) >= run.counts.sum():
        return
    own = run.structure(pinned=False)
    used, keys = own.n_params, own.keys
    if used >= UNUSED * budget:
        yield f"the structure uses {used:,} of {budget:,} parameters"
        return
    smallest = min(g.n_params for g in run.gates_list if g.key not in keys)
    if smallest > budget - used:
        why = f"no gate that is left is small enough for the rest (the smallest has {smallest:,}). A slightly "
        why += "different budget may fit the modules better."
    else:
        why = f"a gate that is left, of {smallest:,}, would fit. This is not what the rule of selection gives."
    yield found("budget-unused", f"The structure has {used:,} of {budget:,} parameters ({used / budget:.0%}): {why}")


def _of_seeds(runs: Sequence[Run]) -> Iterator[Seen]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.n_steps and run.info["budget"]:
            facts = (run.config.get("task"), run.info["backbone"], run.info["budget"], run.config.get("mode"))
            groups.setdefault(tuple(map(str, facts)), []).append(run)
    for group in groups.values():
        if len(group) > 1 and len({tuple(g.key for g in run.gates_list) for run in group}) == 1:
            yield from _agreement(group)


def _agreement(group: Sequence[Run]) -> Iterator[Seen]:
    chosen: list[tuple[object, Structure]] = [(run.config.get("seed"), run.structure(pinned=False)) for run in group]
    # Two runs of one seed agree by themselves.
    pairs = [jaccard(a, b) for (s, a), (t, b) in itertools.combinations(chosen, 2) if s is None or s != t]
    if not pairs:
        return
    mean = float(np.mean(pairs))
    counts, budget = group[0].counts, group[0].searched_budget()
    drawn = (random_structures(counts, budget, draws=_DRAWS, seed=seed) for seed in (0, 1))
    chance = chance_overlap(*(by_rank(chosen, group[0].gates_list) for chosen in drawn))
    task = str(group[0].config.get("task") or group[0].name).rstrip("/").rpartition("/")[2]
    seen = (
        f"{len(group)} runs on {task} overlap by {mean:.2f} on average (Jaccard of their gates); random structures of "
        f"this budget overlap by {chance.mean:.2f} (95 %: {chance.low:.2f} to {chance.high:.2f})"
    )
    if mean <= chance.high:
        yield found(
            "seeds-by-chance", f"{seen}. A single run's structure says nothing: search longer and use the consensus."
        )
    elif mean < DISAGREE:
        yield found(
            "seeds-disagree", f"{seen}. Read what the seeds share (the consensus), not single gates of one run."
        )
    else:
        yield seen


def _chosen(run: Run, alpha: np.ndarray, budget: float) -> frozenset[tuple[str, str]]:
    return frozenset(rank_keys(run.gates_list[i] for i in select(alpha, run.counts, budget)))


_END, _SEEDS = "how it ended", "agreement of seeds"
_RULES: dict[str, Rule] = {
    _END: _end,
    "validation loss": losses,
    "task learned": unlearned,
    "number of steps": _length,
    "gates separated": _separation,
    "gates at rest": _moving,
    "PET types": _collapse,
    "budget kept": _budget,
    "budget used": _unused,
}
