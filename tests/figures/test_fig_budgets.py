"""Scores by trained parameters: right numbers, a panel a task, every method told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from s3pet_viz import figures
from s3pet_viz.analysis import open_study
from s3pet_viz.analysis.study import KIND, SCHEMA_VERSION
from s3pet_viz.errors import ConfigError, StudyError

#: (task, budget, method, source, seed): score, percent
ROWS = {
    ("a", "0.1%", "searched", "a", 0): (0.70, 0.09),
    ("a", "0.1%", "searched", "a", 1): (0.80, 0.11),
    ("a", "0.2%", "searched", "a", 0): (0.90, 0.20),
    ("a", "0.1%", "random", "", 0): (0.60, 0.10),
    ("a", "0.1%", "searched", "b", 0): (0.10, 0.10),  # another task's structure: a transfer's row
    ("a", "", "LoRA", "", 0): (0.85, 0.40),
    ("a", "", "full", "", 0): (0.95, 100.0),
    ("a", "", "head", "", 0): (0.50, 0.0),
    ("b", "0.1%", "random", "", 0): (0.55, 0.10),
}


@pytest.fixture
def study(tmp_path):
    cells = []
    (tmp_path / "cells").mkdir()
    for i, ((task, budget, method, source, seed), (score, percent)) in enumerate(ROWS.items()):
        labels = {"task": task, "budget": budget, "budget_params": 0, "method": method, "mode": "fast" if source else ""}
        labels |= {"source": source, "draw": 0, "seed": seed}
        cells.append({"key": f"c{i}", "kind": "tune", "labels": labels, "what": {}, "needs": []})
        row = {"score": score, "metric": "accuracy", "loss": 1 - score, "pet_params": 1, "percent": percent}
        (tmp_path / "cells" / f"c{i}.json").write_text(json.dumps({"status": "done", "row": row}))
    info = {"kind": KIND, "schema_version": SCHEMA_VERSION, "calls": [{"study": "sweep"}], "cells": cells}
    (tmp_path / "study.json").write_text(json.dumps(info))
    return open_study(tmp_path)


def test_means_spreads_and_places(study):
    table = figures.budgets_table(study)
    (row,) = table[(table["method"] == "searched") & (table["budget"] == "0.1%")].to_dict("records")
    assert row["mean"] == pytest.approx(0.75)
    assert row["n"] == 2
    assert row["spread"] == pytest.approx(np.std([0.7, 0.8], ddof=1))
    assert row["percent"] == pytest.approx(0.10)
    assert (row["low"], row["high"]) == (0.70, 0.80)
    assert list(dict.fromkeys(table["task"])) == ["a", "b"]
    loss = figures.budgets_table(study, value="loss", tasks=["a"])
    assert set(loss["task"]) == {"a"}
    assert loss.loc[loss["method"] == "full", "mean"].item() == pytest.approx(0.05)


def test_lines_marks_and_levels(study):
    figure = figures.budgets(study)
    traces = {(t.name, t.xaxis): t for t in figure.data}
    assert {name for name, _ in traces} == {"searched", "random", "LoRA", "full", "head"}
    searched = traces["searched", "x"]
    # Beside each other on the logarithmic axis, with the true size in the hover text.
    np.testing.assert_allclose(searched.customdata[:, 3], [0.10, 0.20])
    np.testing.assert_allclose(searched.x, [0.10, 0.20], rtol=0.05)
    assert searched.x[0] < traces["random", "x"].x[0]
    np.testing.assert_allclose(searched.y, [75, 90])
    np.testing.assert_allclose(traces["full", "x"].y, 95)
    assert len({t.line.color for t in (searched, traces["random", "x"], traces["LoRA", "x"])}) == 3
    assert ("random", "x2") in traces
    assert ("searched", "x2") not in traces
    # One legend entry a method, however many panels.
    assert sorted(t.name for t in figure.data if t.showlegend) == sorted({name for name, _ in traces})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"tasks": ["c"]}, "tasks: expected names among a, b, found 'c'"), ({"value": "f1"}, "value: expected one of")],
)
def test_wrong_questions_are_named(study, wrong, words):
    with pytest.raises(ConfigError, match=words):
        figures.budgets(study, **wrong)


def test_not_a_study_or_an_empty_one(study, tmp_path):
    with pytest.raises(StudyError, match="expected a study folder"):
        figures.budgets(tmp_path / "nothing")
    for file in (tmp_path / "cells").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="no finished training yet"):
        figures.budgets(study)


def test_every_method_of_several_budgets_has_a_colour_of_its_own():
    traces = {t.name: t for t in figures.budgets("deciding", tasks=["sentiment"]).data}
    lines = [traces[name].line.color for name in ("random", "gradient", "fast", "one-go", "prune")]
    assert len(set(lines)) == 5
    assert traces["LoRA"].line.color not in lines
