"""The questions that `trust` asks, each answered in words from numbers.

learned       the rules of `health`; and the training loss is below that of one answer to every row, or the
              validation loss fell
seeds         the mean overlap of structures against that of random ones of the same budget (`agreement.relations`)
importance    Spearman's correlation of p and what closing a gate costs (`explanation`), over the chosen gates
searched - x  paired differences of held-out scores (`statistics.differences`)
health        what else the rules of `health` found
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import ndtri

from s3pet_viz.analysis.agreement import Found, relations
from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.analysis.findings import FINDINGS, LEVELS, Finding, Level
from s3pet_viz.analysis.health import DISAGREE, judged
from s3pet_viz.analysis.learned import UNLEARNED, last_loss, losses, unlearned
from s3pet_viz.analysis.remedies import Remedy
from s3pet_viz.analysis.statistics import sentence
from s3pet_viz.errors import S3PETError
from s3pet_viz.runs import Run
from s3pet_viz.runs.status import pruning

#: What each code of an answer is worth.
CODES: dict[str, Level] = {
    **dict.fromkeys(("learned", "stable", "follows", "better", "nothing-unusual"), "good"),
    **dict.fromkeys(("alike", "not-settled", "not-known"), "note"),
    **dict.fromkeys(("mixed", "undecided", "partly-stable", "against", "worse", "warnings"), "warning"),
    **dict.fromkeys(("not-learned", "unstable", "problems"), "problem"),
}
#: What a searched structure is held against, and what it is called in a sentence.
RIVALS = {
    "random": "random structures",
    "gradient": "one pass of gradients",
    "LoRA-everywhere": "LoRA everywhere",
    "full": "full fine-tuning",
}
#: Scores whose difference surely lies within so many points are called as good as each other.
ALIKE = 2.0
#: Findings that say a search learned nothing, and those that the first two questions are about.
_UNLEARNED = ("loss-not-finite", "not-learned", "pruned-unlearned", "pruned-lost")
_SAID = (*_UNLEARNED, "loss-did-not-fall", "not-separated", "budget-not-binding", "no-steps", "nothing-unusual")
#: A rank correlation of fewer gates has no interval.
_FEWEST = 5


class Answer(NamedTuple):
    """One answer.

    Attributes:
        line: the question: learned, seeds, importance, searched - random, ..., health.
        about: what it is about: a task and budget, a run, or "all".
        code: one of `CODES`. verdict: in words. brief: as a part of a sentence.
        estimate, low, high: the number that it rests on, and its 95 % interval. n: what it is a mean over. unit.
        chance, chance_low, chance_high: what chance gives: its mean, and the band that holds 95 % of it.
        remedy: what would answer it, where it is open.
        whole: whether it is about all tasks and budgets, beside answers about each.
    """

    line: str
    about: str
    code: str
    verdict: str
    brief: str = ""
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    unit: str = ""
    chance: float = math.nan
    chance_low: float = math.nan
    chance_high: float = math.nan
    remedy: Remedy = Remedy()
    whole: bool = False


# -- learned -------------------------------------------------------------------------------------------------


def learned_of(run: Run) -> tuple[str, str]:
    """Code and words: whether a search learned its task, and its gates anything."""
    if run.n_steps < 2:
        return "not-known", f"{run.n_steps or 'no'} step{'s' if run.n_steps != 1 else ''} recorded yet"
    steps, alphas = run.steps(), run.alphas()
    if not (steps["lr"].to_numpy() > 0).any():
        return "not-learned", "the learning rate was 0, so no weight has moved"
    if (alphas[0] == alphas[-1]).all():
        return "not-learned", "alpha has not moved, so no gate was chosen for a reason"
    budget = run.info["budget"]
    if budget and budget >= run.counts.sum():
        return "not-learned", "the budget holds every gate, so none was chosen"
    of_loss, of_task = list(losses(run)), list(unlearned(run))
    codes = [seen.code for seen in (*of_loss, *of_task) if isinstance(seen, Finding)]
    for code in _UNLEARNED:
        if code in codes:
            return "not-learned", _lower(FINDINGS[code][1]) + _against_constant(run)
    last, constant = last_loss(run)
    below = constant is not None and run.n_steps >= 20 and last <= UNLEARNED * constant
    fell = bool(of_loss) and not {"loss-did-not-fall", "loss-rose"} & set(codes)
    if not (below or fell or pruning(run.info).get("task") == "learned"):
        if of_loss:
            return "not-learned", _lower(FINDINGS[codes[0]][1]) + _against_constant(run)
        return "not-known", f"{run.n_steps:,} steps are too few to see whether the loss fell"
    if "loss-did-not-fall" in codes:
        return "not-known", "the loss is low but did not fall: it was learned in the first steps, or before the search"
    why = _against_constant(run) or (f" (the validation loss {of_loss[0]})" if fell else "")
    separated = next((f for f in judged([run]) if f.code == "not-separated"), None)
    if separated is not None:
        return "undecided", f"the task was learned{why}, but the gates have hardly separated"
    return "learned", f"the task was learned{why} and the gates have separated"


def _against_constant(run: Run) -> str:
    last, constant = last_loss(run)
    return f" (training loss {last:.3g}, of one answer to every row {constant:.3g})" if constant else ""


def learned(about: str, runs: Sequence[Run], searches: int) -> Answer:
    """Whether the searches of one question learned.

    Args:
        searches: how many there are; the runs of some may not be at hand.
    """
    each = [learned_of(run) for run in runs]
    count = Counter(code for code, _ in each)
    known = len(runs) - count["not-known"]
    good, bad = count["learned"], count["not-learned"]
    whole = (c for c in ("learned", "not-learned", "undecided") if count[c] == known)
    code = next(whole, "mixed") if known else "not-known"
    words = {"learned": "learned", "not-learned": "not learned", "undecided": "gates undecided"}.get(code, "")
    brief = words or (f"learned in {good} of {known} searches" if known else "")
    if not runs:
        return Answer("learned", about, code, f"the runs of {_number(searches, 'search')} are not at hand")
    said = next((text for found, text in each if found == code), "")
    if len(runs) == 1 and searches == 1:
        verdict = said
    else:
        verdict = f"learned in {good} of {searches}" + (f", not learned in {bad}" if bad else "")
        verdict += f", gates undecided in {count['undecided']}" if count["undecided"] else ""
        verdict += f", not known of {searches - known}" if searches > known else ""
        verdict += f"; the first: {said}" if said and code != "mixed" else ""
    if going := [run for run in runs if not run.ended]:
        brief += " so far" if brief else ""
        at = f"step {going[0].n_steps:,} of {going[0].info.get('steps_total') or '?'}"
        verdict += f"; not over yet ({at})" if searches == 1 else f"; {len(going)} of {searches} not over yet"
    return Answer("learned", about, code, verdict, brief, estimate=good, n=known, unit="searches")


# -- seeds ---------------------------------------------------------------------------------------------------


def seeds(about: str, found: Sequence[Found], draws: int, seed: int, remedy: Remedy, *, unlearned: bool) -> Answer:
    """Whether the structures of one question agree over its seeds, beyond what chance gives.

    Args:
        unlearned: none of the searches learned. Then they agree where alpha stands still: equal gates are taken in
            their order, by every seed.
    """
    first = {one.seed: one for one in reversed(found)}  # of one seed searched twice, the first
    one_each = [first[seed] for seed in sorted(first)]
    if len(one_each) < 2:
        said = f"only seed {one_each[0].seed} was searched" if one_each else "no structure is at hand"
        return Answer("seeds", about, "not-known", said, n=len(one_each), unit="Jaccard", remedy=remedy)
    try:
        row = relations(one_each, draws=draws, seed=seed).iloc[0]
    except S3PETError as error:
        return Answer("seeds", about, "not-known", str(error), n=len(one_each), unit="Jaccard")
    overlap, n = float(row["overlap"]), len(one_each)
    band = f"random structures {row['chance']:.2f}, 95 % of them {row['low']:.2f} to {row['high']:.2f}"
    numbers = f"the structures of {n} seeds overlap by {overlap:.2f} ({band})"
    over = f"over {n} seeds"
    if row["above"]:
        code = "stable" if overlap >= DISAGREE else "partly-stable"
        rest = "" if code == "stable" else ": more than chance, less than half; read what the seeds share"
        brief = f"{'stable' if code == 'stable' else 'partly stable'} {over}"
    elif overlap >= DISAGREE:
        code, brief, rest = "not-known", "", ": much, but in so small a space chance gives as much"
    else:
        code, brief, rest = "unstable", f"unstable {over}", ": no more than chance"
    if unlearned and row["above"]:
        code, brief, rest = "not-known", "", ": nothing was learned, so that they agree says nothing"
    limits = {"chance": row["chance"], "chance_low": row["low"], "chance_high": row["high"]}
    numbers_of: dict[str, Any] = {k: float(v) for k, v in limits.items()}
    return Answer("seeds", about, code, numbers + rest, brief, estimate=overlap, n=n, unit="Jaccard", **numbers_of)


# -- importance ----------------------------------------------------------------------------------------------


def spearman_interval(rho: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds of a rank correlation of n pairs by Fisher's z with the standard error sqrt((1 + rho^2 / 2) / (n - 3)) of
    Bonett and Wright, Psychometrika 2000; NaN below 5 pairs, and where rho is not known. For 1 and -1, which have no z,
    stands the next value that n pairs can have, of two neighbours that changed places: 1 - 12 / (n^3 - n).
    """
    if n < _FEWEST or math.isnan(rho):
        return math.nan, math.nan
    r = math.copysign(min(abs(rho), 1 - 12 / (n**3 - n)), rho)
    half = float(ndtri((1 + level) / 2)) * math.sqrt((1 + r**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return min(low, rho), max(high, rho)


def importance(about: str, made: Explanation) -> Answer:
    """Whether the likelier of the chosen gates matter more."""
    n, rho = len(made), made.rho
    low, high = spearman_interval(rho, n)
    clear = sum(effect.clear for effect in made.effects)
    if math.isnan(low):
        code, brief = "not-known", ""
        why = "not defined" if math.isnan(rho) else f"{rho:+.2f}, without an interval"
        verdict = f"rank correlation of p and importance over {n} chosen gates: {why}"
    else:
        code = "follows" if low > 0 else "against" if high < 0 else "not-settled"
        words = {"follows": "likelier gates matter more", "against": "likelier gates matter less"}
        verdict = f"rank correlation of p and importance {rho:+.2f} ({low:+.2f} to {high:+.2f}; {n} chosen gates)"
        brief = words.get(code, "whether likelier gates matter more is not settled")
        verdict += f": {words.get(code, 'not settled')}"
    verdict += f"; {clear} of {n} gates move the loss beyond noise"
    return Answer("importance", about, code, verdict, brief, estimate=rho, low=low, high=high, n=n, unit="Spearman")


# -- scores --------------------------------------------------------------------------------------------------


def against(about: str, row: Mapping[str, Any]) -> Answer:
    """A row of `statistics.differences` as an answer."""
    code, what, much = _told(row)
    brief = f"{what} {much}".strip()
    n = int(row["n_pairs"]) or int(row["n_a"])
    numbers: dict[str, Any] = {
        "estimate": float(row["difference"]),
        "low": float(row["low"]),
        "high": float(row["high"]),
    }
    return Answer(f"searched - {row['b']}", about, code, sentence(row), brief, n=n, unit=str(row["unit"]), **numbers)


def against_at_each(rows: Mapping[str, Mapping[str, Any]]) -> Answer:
    """The pooled rows of `statistics.differences`, by budget (and mode), as one answer: budgets are not pooled."""
    parts: dict[str, list[str]] = {}
    told = {at: _told(row) for at, row in rows.items()}
    for at, (_, what, much) in told.items():
        parts.setdefault(what, []).append(f"{much} at {at}".strip())
    brief = ", ".join(f"{what} {', '.join(each)}" for what, each in parts.items())
    codes = {code for code, *_ in told.values()}
    verdict = "; ".join(f"at {at}: {sentence(row)}" for at, row in rows.items())
    first = next(iter(rows.values()))
    n = sum(int(row["n_pairs"]) or int(row["n_a"]) for row in rows.values())
    code = codes.pop() if len(codes) == 1 else "mixed"
    line, about, unit = f"searched - {first['b']}", str(first["task"]), str(first["unit"])
    return Answer(line, about, code, verdict, brief, n=n, unit=unit, whole=True)


def _told(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a row of `statistics.differences`: its code, what it says of the rival, and by how much."""
    low, high, points = float(row["low"]), float(row["high"]), row["unit"] == "points"
    name, unit = RIVALS.get(str(row["b"]), str(row["b"])), " points" if points else ""
    if math.isnan(row["difference"]):  # of a score that is not known
        return "not-known", "", ""
    if math.isnan(low):
        return "not-settled", f"not told apart from {name}", ""
    if low <= 0 <= high:
        if points and low >= -ALIKE and high <= ALIKE:
            return "alike", f"as good as {name}", f"(within {ALIKE:g} points)"
        reach = " to ".join(_amounts(low, high, sign="+"))
        return "not-settled", f"not told apart from {name}", f"({reach}{unit})"
    code, ends = "better" if low > 0 else "worse", sorted((abs(low), abs(high)))
    return code, f"{code} than {name}", f"by {' to '.join(_amounts(*ends))}{unit}"


def _amounts(low: float, high: float, *, sign: str = "") -> list[str]:
    """Each with as many digits as keep it from being said as 0, or as the other."""
    least = [next((d for d in (0, 1, 2, 3) if abs(value) >= 10.0**-d), 4) for value in (low, high)]
    for more in range(4):
        texts = [f"{value + 0.0:{sign}.{max(digits, more)}f}" for value, digits in zip((low, high), least, strict=True)]
        if texts[0] != texts[1]:
            break
    return texts


# -- the rest ------------------------------------------------------------------------------------------------


def warnings(about: str, runs: Sequence[Run]) -> Answer:
    """What else the rules of `health` found in these searches."""
    every = [f for run in runs for f in judged([run]) if f.code not in _SAID and f.level != "good"]
    bad = sorted({(LEVELS.index(f.level), f.code) for f in every if f.level != "note"})
    if not bad:
        notes = sorted({FINDINGS[f.code][1].lower() for f in every})
        said = "no rule of thumb found anything else" + (f"; to note: {', '.join(notes)}" if notes else "")
        return Answer("health", about, "nothing-unusual", said, n=len(runs), unit="searches")
    count = Counter(f.code for f in every)
    named = [_lower(next(f.title for f in every if f.code == code)) for _, code in bad]
    often = [f" in {count[code]} of {len(runs)}" if len(runs) > 1 else "" for _, code in bad]
    parts = [name + times for name, times in zip(named, often, strict=True)]
    code = "problems" if bad[0][0] == 0 else "warnings"
    said = "; ".join(parts)
    return Answer("health", about, code, said, said, estimate=len(bad), n=len(runs), unit="searches")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('ch') else 's'}"
