"""What the study that decides (deciding.py) says: every way over tasks, and which mode its rule makes the default.

    python benchmarks/studies/deciding_tables.py                          # data/studies/deciding
    python benchmarks/studies/deciding_tables.py deciding-minilm          # another part, by its name
    python benchmarks/studies/deciding_tables.py benchmarks/measured/deciding     # one that still runs, by its folder
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences
from s3pet_viz.errors import StudyError

#: Ways that a search can go: the rule chooses among them. one-go is mode prune with `save=`.
MODES = ("fast", "prune", "one-go")
#: Those whose structure is trained anew: what a search is asked for without `save=`.
STRUCTURES = ("fast", "prune")
#: Points that a cheaper mode may lose.
MARGIN = -2.0


def at(rows: pd.DataFrame, budget: str) -> pd.DataFrame:
    """Trainings at a budget, with those of methods without one; each task is one group."""
    return rows[rows["budget"].fillna("").isin((budget, ""))].assign(budget="")


def pooled(rows: pd.DataFrame, a: str, b: str, value: str = "score") -> pd.Series:
    """Over all groups: paired by task (and budget, if there are several) and seed."""
    if a == b:
        raise StudyError(f"expected two methods, found {a} twice")
    named = rows.assign(task=rows["task"] + " " + rows["budget"].fillna(""), budget="")
    scale = "points" if value == "score" else "raw"
    return differences(named[named["method"].isin((a, b))], a=a, b=b, by=("task",), value=value, scale=scale).iloc[-1]


def said(gap: pd.Series, form: str = "+.1f") -> str:
    """``+12.3 (+1.9 to +24.5)``; in bold where the interval excludes 0."""
    low, high = gap["low"], gap["high"]
    if pd.isna(low):
        return f"{gap['difference']:{form}} (no interval)"
    words = f"{gap['difference']:{form}} ({low:{form}} to {high:{form}})"
    return f"**{words}**" if low > 0 or high < 0 else words


def complete(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of tasks, budgets and seeds that all of these methods have: a study that still runs compares no others."""
    mine = rows[rows["method"].isin(methods)]
    there = mine.groupby(["task", "budget", "seed"])["method"].transform("nunique")
    return mine[there == len(methods)]


def cost(rows: pd.DataFrame) -> pd.Series:
    """Passes of a row: those of its search and those of its training; one go trains while it searches."""
    return rows["passes"] + rows["steps_taken"].where(rows["method"] != "one-go", 0)


def decide(rows: pd.DataFrame, modes: Sequence[str] = MODES) -> tuple[str, list[list[str]]]:
    """The rule of deciding.py: the mode, and a row for each: mode, passes, score, difference to the best.

    Raises:
        StudyError: no task, budget and seed has all of the modes.
    """
    both = complete(rows, modes)
    if both.empty:
        raise StudyError(f"no task, budget and seed has all of {', '.join(modes)} yet")
    scores = both.groupby("method")["score"].mean()
    passes = both.assign(passes=cost(both)).groupby("method")["passes"].mean()
    best = str(scores.idxmax())
    gaps = {mode: pooled(both, mode, best) for mode in modes if mode != best}
    enough = [mode for mode in modes if mode == best or gaps[mode]["low"] > MARGIN]
    chosen = min(enough, key=lambda mode: passes[mode])
    made = [
        [mode, f"{passes[mode]:,.0f}", f"{100 * scores[mode]:.1f}", said(gaps[mode]) if mode in gaps else "the best"]
        for mode in sorted(modes, key=lambda mode: passes[mode])
    ]
    return chosen, made


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def budgets(rows: pd.DataFrame) -> list[str]:
    return sorted((b for b in set(rows["budget"].dropna()) if b), key=lambda b: float(b.rstrip("%")))


def over_tasks(rows: pd.DataFrame, budget: str) -> str:
    """A row a method: score, held-out loss, passes and seconds to its structure, share of full fine-tuning, cap."""
    here, made = at(rows, budget), []
    full = here[here["method"] == "full"].groupby(["task", "seed"])["score"].mean()
    for method, mine in here.groupby("method"):
        kept = (mine.groupby(["task", "seed"])["score"].mean() / full).dropna()
        against = said(pooled(here, str(method), "random")) if method != "random" else ""
        learned = mine["task_learned"].dropna() if "task_learned" in mine else pd.Series(dtype=float)
        made.append(
            [
                str(method), str(len(mine)), f"{100 * mine['score'].mean():.1f}", against, f"{mine['loss'].mean():.3f}",
                f"{mine['pet_params'].mean():,.0f}", f"{mine['passes'].mean():,.0f}", f"{mine['search_seconds'].mean():,.0f}",
                f"{100 * kept.mean():.1f} %" if len(kept) else "–", str(int((mine.get("cap_reached") == 1).sum())),
                f"{int(learned.sum())} of {len(learned)}" if len(learned) else "–",
            ]
        )  # fmt: skip
    heads = ["method", "n", "score x 100", "- random, points", "held-out loss", "parameters", "passes", "seconds"]
    return table([*heads, "of full", "cap reached", "search learned"], sorted(made, key=lambda r: -float(r[2])))


def by_task(rows: pd.DataFrame, budget: str) -> str:
    here = at(rows, budget)
    scores = 100 * here.pivot_table(index="method", columns="task", values="score", aggfunc="mean")
    return table(["method", *scores.columns], [[str(m), *("–" if pd.isna(v) else f"{v:.1f}" for v in line)] for m, line in scores.iterrows()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="deciding", help="a study's name, or its folder")
    study = s3.open_study(parser.parse_args().study)
    rows, counts = study.at_home(), study.status()
    print(f"{counts['done']} of {counts['planned']} cells.")
    if (ended := rows.loc[rows["method"] != "full", "cap_reached"].dropna()).size:  # one go has no cap
        print(f"{int(ended.sum())} of {len(ended)} trainings of few parameters ended at the cap.")
    for budget in budgets(rows):
        print(f"\n## At {budget}\n\n{over_tasks(rows, budget)}\n\nScores x 100, task by task:\n\n{by_task(rows, budget)}")
    sized = rows[rows["budget"].fillna("") != ""]
    if set(MODES) <= set(sized["method"]):
        chosen, made = decide(sized)
        print(f"\n## Which mode\n\n{table(['mode', 'passes, training too', 'score x 100', 'to the best, points'], made)}\n")
        print(f"By the rule: **{chosen}**.")
        chosen, made = decide(sized, STRUCTURES)
        print(f"\nOf those that hand out a structure alone:\n\n{table(['mode', 'passes, training too', 'score x 100', 'to the best, points'], made)}\n")
        print(f"By the rule: **{chosen}**.")
    if "full" in set(rows["method"]):
        print("\n## Does it keep 99 %?\n")
        methods = [m for m in dict.fromkeys(rows["method"]) if m != "full"]
        for words in study.keeps(methods=methods)["words"]:
            print(f"- {words}")


if __name__ == "__main__":
    main()
