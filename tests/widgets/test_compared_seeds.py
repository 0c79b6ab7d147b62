"""What the compare view is told of sets of seeds: the numbers of `figures.difference`, and agreement in words."""

from __future__ import annotations

import numpy as np
import pytest

from s3pet_viz import figures
from s3pet_viz.runs import open_run
from s3pet_viz.viewer.documents import Compared

NAMES = [f"{task}-0.2pct-s{seed}" for task in ("entailment", "similarity") for seed in range(3)]


def seeds_of(names):
    runs = {name: open_run(name) for name in names}
    return Compared(runs, {name: {} for name in names}, key="k").doc


def test_two_tasks_over_their_seeds():
    doc = seeds_of(NAMES[::2] + NAMES[1::2])  # in no order
    (pair,) = doc["seeds"]["pairs"]
    order = [run["label"] for run in doc["runs"]]
    sides = [sorted(order[i] for i in pair[side]) for side in "ab"]
    assert sides == [NAMES[:3], NAMES[3:]]
    table = figures.difference_table(*([order[i] for i in pair[side]] for side in "ab"))
    assert pair["difference"] == pytest.approx(table["difference"].tolist())
    assert pair["remains"] == np.flatnonzero(table["remains"]).tolist()
    assert f"{int(table['remains'].sum())} of 156 gates differ beyond seeds" in pair["words"]
    space = doc["space"]
    assert [(space["position"][i], space["type"][i]) for i in pair["at"]] == list(zip(table["position"], table["pet_type"], strict=True))
    assert len(doc["seeds"]["agreement"]) == 2
    assert doc["seeds"]["agreement"][0].startswith("entailment 0.2%: the structures of 3 seeds overlap by 0.59")


@pytest.mark.parametrize("names", [[NAMES[0], NAMES[3]], [NAMES[0]], [*NAMES[:3], NAMES[3]]])
def test_without_two_seeds_on_each_side_nothing_is_told(names):
    assert seeds_of(names)["seeds"]["pairs"] == []
