"""All tables of a study, from its folder.

    python benchmarks/studies/print_study.py minilm      # a recorded study's name, or a folder
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import pandas as pd
from studies_common import ends_of_losses

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences, sentence
from s3pet_viz.errors import StudyError

#: Held-out rows of each task.
ROWS = {
    "sst2": 872, "stsb": 1500, "mrpc": 408, "cola": 1043, "rte": 277, "qnli": 2000,
    **dict.fromkeys(("sentiment", "entailment", "similarity", "paraphrase", "acceptability"), 500),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    study = s3.open_study(parser.parse_args().study)
    print("| task | budget | method | n | score x 100 | held-out loss | PET parameters |\n|---|---|---|---|---|---|---|")
    for row in study.summary().to_dict("records"):
        spread = f" ± {100 * row['spread']:.1f}" if row["n"] > 1 else ""
        print(
            f"| {row['task']} | {row['budget'] or '–'} | {row['method']} | {row['n']} | {100 * row['score']:.1f}{spread} "
            f"| {row['loss']:.3f} | {row['pet_params']:,.0f} |"
        )
    methods = set(study.table()["method"])
    print()
    for a, b in (("searched", "random"), ("searched", "gradient"), ("resolved", "random"), ("gradient", "random")):
        if {a, b} <= methods:
            for value, scale in (("score", "points"), ("loss", "raw")):
                for _, row in study.differences(a, b, value=value, scale=scale).iterrows():
                    print(f"- {' '.join(filter(None, (row['task'], row['budget'])))} ({value}): {sentence(row)}")
    print()
    by_budget(study.table())
    against_others(study.table())
    if "full" in methods:
        for words in study.keeps(methods=[m for m in ("searched", "resolved", "random", "LoRA") if m in methods], rows=ROWS)["words"]:
            print(f"- {words}")
    print("\n| pairs | overlap (gates) | chance (95 %) | p |\n|---|---|---|---|")
    agreed = study.agreement()
    for row in agreed[agreed["by"] == "gates"].to_dict("records"):
        band = f"{row['chance']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        print(f"| {row['relation']} ({row['pairs']}) | {row['overlap']:.3f} | {band} | {row['p']:.3f} |")
    print("\n| search | training loss, mean over the last fifth |\n|---|---|")
    for key, loss in ends_of_losses(study).items():
        print(f"| {key} | {loss:.3f} |")
    try:
        matrix = s3.Transfer(study)
    except StudyError:
        return
    print("\n| structure of |", " | ".join(matrix.targets), "|\n|---|" + "---|" * len(matrix.targets))
    numbers, spread, counts = matrix.matrix(), matrix.spread(), matrix.counts()
    for name in numbers.index:
        cells = []
        for target in matrix.targets:
            mean, n = 100 * numbers.loc[name, target], counts.loc[name, target]
            cells.append("–" if mean != mean else f"{mean:.1f}" + (f" ± {100 * spread.loc[name, target]:.1f}" if n > 1 else ""))
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for a, b in (("other tasks'", "random"), ("own", "other tasks'")):
        for value, scale in (("score", "points"), ("loss", "raw")):
            for _, row in differences(by_origin(study), a=a, b=b, value=value, scale=scale).iterrows():
                print(f"- {' '.join(filter(None, (row['task'], row['budget'])))} ({value}): {sentence(row)}")


def by_origin(study: s3.Study) -> pd.DataFrame:
    """The trainings of searched structures, called by where the structure comes from, and the random ones."""
    rows = study.table()
    rows = rows[rows["method"].isin(["searched", "random"])]
    own = rows["source"] == rows["task"]
    names = np.where(rows["method"] == "random", "random", np.where(own, "own", "other tasks'"))
    return rows.assign(method=names, source="", mode="")


def by_budget(table: pd.DataFrame) -> None:
    """Whether the gap of searched - random, over all tasks, grows as the budget shrinks."""
    table = table[(table["source"] == "") | (table["source"] == table["task"])]
    both = table[table["method"].isin(("searched", "random"))]
    budgets = sorted(set(both.loc[both["method"] == "searched", "budget"]), key=lambda b: float(b.rstrip("%")))
    if len(budgets) < 2:
        return
    sides = {m: both[both["method"] == m].groupby(["task", "budget", "seed"])[["score", "loss"]].mean() for m in ("searched", "random")}
    gaps = (sides["searched"] - sides["random"]).dropna().reset_index()
    gaps = gaps.assign(method="gap at " + gaps["budget"], budget="", mode="", source="", draw=0)
    for value, scale in (("score", "points"), ("loss", "raw")):
        for small, large in itertools.pairwise(budgets):
            made = differences(gaps, a=f"gap at {small}", b=f"gap at {large}", by=("task",), value=value, scale=scale)
            print(f"- {value}: {sentence(made.iloc[-1])}")
        made = differences(gaps, a=f"gap at {budgets[0]}", b=f"gap at {budgets[-1]}", by=("task",), value=value, scale=scale)
        print(f"- {value}: {sentence(made.iloc[-1])}")
    print()


def against_others(table: pd.DataFrame) -> None:
    """Searched structures, over all tasks, against every other method but the random ones: at the same budget where the
    method has one.
    """
    searched = table[(table["method"] == "searched") & ((table["source"] == "") | (table["source"] == table["task"]))]
    others = [m for m in table["method"].unique() if m not in ("searched", "random", "full", "head", "untouched", "consensus")]
    tasks = set(searched["task"])
    for method in others:
        for budget in sorted(set(searched["budget"]), key=lambda b: float(b.rstrip("%"))):
            rows = table[(table["method"] == method) & table["budget"].fillna("").isin((budget, "")) & table["task"].isin(tasks)]
            mine = searched[(searched["budget"] == budget) & searched["task"].isin(set(rows["task"]))]
            if len(set(rows["task"])) < 2 or mine.empty:
                continue
            both = pd.concat([mine, rows]).assign(budget="", mode="", source="", draw=0)
            for value, scale in (("score", "points"), ("loss", "raw")):
                made = differences(both, a="searched", b=method, by=("task",), value=value, scale=scale)
                params = f"{rows['pet_params'].mean():,.0f} against {mine['pet_params'].mean():,.0f} parameters"
                print(f"- searched at {budget}, all tasks ({value}): {sentence(made.iloc[-1])}; {method} has {params}")
    print()


if __name__ == "__main__":
    main()
