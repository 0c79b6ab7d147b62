"""benchmarks/studies/deciding_tables.py: the rule that chooses the default mode, with known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

import s3pet_viz as s3
from s3pet_viz.analysis.study import packed
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import StudyError
from s3pet_viz.training.stopping import stopping

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))
from deciding_tables import complete, decide, over_tasks


def rows(noise=0.001, **scores):
    """Five tasks, two budgets, three seeds; each method at its score, the seeds `noise` points apart."""
    passes = {"fast": 580, "prune": 400, "one-go": 1600}
    made = [
        {
            "task": task, "budget": budget, "budget_params": 100, "method": method, "seed": seed, "score": score + noise * (seed - 1) * (sign - k),
            "loss": 1 - score, "passes": passes.get(method, 0), "steps_taken": 1000, "search_seconds": 1.0, "pet_params": 90,
            "mode": "", "source": "", "draw": 0, "cap_reached": 1.0,
        }
        for k, task in enumerate("abcde") for budget in ("0.1%", "0.2%") for seed in range(3)
        for sign, (method, score) in enumerate(scores.items(), start=k)
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_the_cheapest_mode_wins_where_it_loses_less_than_two_points():
    chosen, made = decide(rows(fast=0.90, prune=0.89, **{"one-go": 0.88}))
    assert chosen == "prune"  # 1,400 passes with its training; fast has 1,580 and one go 1,600
    assert [line[:3] for line in made] == [["prune", "1,400", "89.0"], ["fast", "1,580", "90.0"], ["one-go", "1,600", "88.0"]]
    assert made[1][3] == "the best"


@pytest.mark.parametrize(("fast", "noise"), [(0.95, 0.001), (0.90, 0.2)])
def test_else_the_best_a_wide_interval_settles_nothing(fast, noise):
    chosen, _ = decide(rows(noise, fast=fast, prune=0.89, **{"one-go": 0.5}))
    assert chosen == "fast"


def test_only_what_all_modes_have_is_compared():
    all_rows = rows(fast=0.9, prune=0.9, **{"one-go": 0.9})
    some = all_rows[~((all_rows["method"] == "one-go") & (all_rows["seed"] == 2))]
    assert len(complete(some, ("fast", "prune", "one-go"))) == 5 * 2 * 2 * 3
    with pytest.raises(StudyError, match="no task, budget and seed has all of fast, prune, one-go yet"):
        decide(all_rows[all_rows["method"] != "prune"])


def test_the_table_over_tasks_gives_the_share_of_full_fine_tuning():
    full = rows(full=0.8).drop_duplicates(["task", "seed"]).assign(budget="")
    said = over_tasks(pd.concat([rows(fast=0.6, random=0.4), full]), "0.1%").splitlines()
    assert [line.split(" | ")[0] for line in said[2:]] == ["| full", "| fast", "| random"]
    name, n, score, gap, loss, *rest = said[3].strip("| ").split(" | ")
    assert (name, n, score, loss) == ("fast", "15", "60.0", "0.400")
    assert gap.startswith("**+20.0 (+1")
    assert rest == ["90", "580", "1", "75.0 %", "15", "–"]


def test_recorded_trainings_ended_as_the_rule_of_now_says():
    seen = 0
    for _, cell in packed(s3.open_study("deciding").path).values():
        if not cell.get("history"):  # one go: a search
            continue
        # Validation and test rows of these tasks have the same labels' shares.
        plan = stopping(TuneConfig(steps="auto", max_steps=1200), cell["row"]["one_answer"])
        for look in cell["history"]:
            assert plan.looks(int(look["step"])), cell["key"]
            plan.see(int(look["step"]), look["loss"])
        taken = cell["row"]["steps_taken"]
        assert plan.rate(taken - 1) is not None
        assert plan.rate(taken) is None
        assert plan.cap_reached is cell["row"]["cap_reached"], cell["key"]
        seen += 1
    assert seen > 100
