"""What a change of a structure does, measured, and the commands around it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tuning_problems import FAST, bench, structure_for
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError
from s3pet_viz.tuning.explain import leave_one_out, row_losses

SMALL = {"max_rows": 24}


@pytest.fixture(scope="module")
def wb():
    return bench("bert")


def half():
    structure = structure_for("bert")
    return s3.Structure(structure.gates[::2], "bert", 1, sum(g.n_params for g in structure.gates[::2])), structure.gates[1]


def test_changes_are_compared_on_the_same_rows(wb):
    structure, other = half()
    first = structure.gates[0]
    changes = [{"remove": first}, {"add": other, "remove": [first]}, {"add": other}]
    made = s3.what_if(structure, changes, workbench=wb, progress=False, seeds=2, **FAST)
    assert made["change"].tolist() == ["as it is", f"- {first.name}", f"+ {other.name}; - {first.name}", f"+ {other.name}"]
    assert made["over"].tolist() == [0, 0, max(0, other.n_params - first.n_params), other.n_params]
    assert set(made["se_of"]) == {"seeds"}
    losses = []
    for changed in (structure, structure.edit(remove=first)):
        rows = []
        for seed in (0, 1):
            with wb.tuned(changed, TuneConfig(**FAST, seed=seed), progress=False, test=False) as (_, pets):
                ones = next(pets.parameters()).new_ones(len(pets))
                rows.append(leave_one_out(row_losses(wb, pets, wb.splits.validation, 64), ones, gates=[0])[0].numpy())
        losses.append(rows)
    base, without = np.array(losses)
    assert made["loss"][0] == pytest.approx(base.mean(), rel=1e-5)
    by_seed = (without - base).mean(axis=1)
    assert made["loss_change"][1] == pytest.approx(by_seed.mean(), abs=1e-6)
    assert made["loss_change_se"][1] == pytest.approx(by_seed.std(ddof=1) / np.sqrt(2), abs=1e-6)
    assert made["loss_change"][0] == 0


def test_one_seed_says_what_its_error_is_of(wb):
    structure, other = half()
    made = s3.what_if(structure, {"add": other}, workbench=wb, progress=False, rows=8, **FAST)
    assert set(made["se_of"]) == {"rows"}
    assert np.isnan(made["loss_change_se"][0])
    assert made["loss_change_se"][1] >= 0


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ([], {}, "changes: expected at least one mapping"),
        (3, {}, "changes: expected at least one mapping"),
        ([{}], {}, "changes: expected mappings of add and remove"),
        ([{"swap": "x"}], {}, "changes: expected mappings of add and remove"),
        ([{"remove": "*"}], {}, "found none left"),
        ([{"add": "E.9"}], {}, "add: expected of="),
        ([{"remove": "no"}], {}, "remove: no gate of this search is named"),
        ([{"remove": "*LoRA"}], {"seed": 1}, "seed: expected seeds"),
        ([{"remove": "*LoRA"}], {"seeds": 0}, "seeds: expected a whole number of at least 1"),
        ([{"remove": "*LoRA"}], {"rows": 0}, "rows: expected a whole number"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_training(wb, changes, more, words):
    with pytest.raises(ConfigError, match=words):
        s3.what_if(half()[0], changes, workbench=wb, progress=False, **more)


def test_the_commands_say_and_measure(tmp_path):
    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    table = tmp_path / "cut.csv"
    said = call("cut", "sentiment-0.2pct-s0", "sentiment-0.2pct-s1", "-n", 3, "--table", table)
    assert "of 2" in said
    assert "pass scores=" in said
    assert len(pd.read_csv(table)) == 6
    small = ("--steps", 2, "--evaluations", 1, "--batch-size", 4, "--max-rows", 16, "--quiet", "--device", "cpu")
    measured = call("cut", "sentiment-0.2pct-s0", "-n", 2, "--measure", 1, *small)
    assert "as it is" in measured
    assert "standard error over rows" in measured
    said = call("why-not", "sentiment-0.2pct-s0", "D.2 FFN.W2 LoRA", "--score", "--max-rows", 16, "--quiet")
    assert "score gradient of one pass" in said
    assert "too large" in said
    assert CliRunner().invoke(app, ["why-not", "sentiment-0.2pct-s0", "no"]).exit_code == 2
    assert CliRunner().invoke(app, ["cut", "sentiment-0.2pct-s0", "--budget", "1%"]).exit_code == 2
