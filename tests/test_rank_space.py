"""A space of ranks through all that takes a run: resume, one go, tune, explain, evaluate, baselines, report, sweep, CLI."""

from __future__ import annotations

import numpy as np
import pytest
from problems import MOOD, mood_data, save_tiny

import s3pet_viz as s3
from s3pet_viz.engine import Callback

LOAD = {"task_spec": MOOD}
QUIET = {"progress": False}
SPACE = {"name": "some ranks", "gates": [{"type": "LoRA", "modules": ["SelfAttn.Q", "FFN.W1"], "options": {"ranks": 3}}, {"type": "BitFit", "modules": ["SelfAttn.V"]}]}  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny("bert", tmp_path_factory.mktemp("bert"))


def search(backbone, out, **options):
    given = {"budget": "3%", "steps": 6, "batch_size": 8, "space": SPACE, "device": "cpu", "seed": 3, **QUIET, **options}
    return s3.search(task=mood_data(32, 16), backbone=str(backbone), out=out, load=LOAD, **given)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, search, step, result):
        if step == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", params=["fast", "prune"])
def run(request, backbone, tmp_path_factory):
    return search(backbone, tmp_path_factory.mktemp(request.param) / "run", mode=request.param)


def ranks(structure) -> dict[str, int]:
    found: dict[str, int] = {}
    for gate in structure.gates:
        if gate.unit is not None:
            found[gate.position] = found.get(gate.position, 0) + 1
    return found


def test_the_budget_is_held_and_units_are_chosen(run):
    structure = run.structure()
    assert structure.n_params <= structure.budget
    assert ranks(structure)
    assert set(ranks(structure).values()) <= {1, 2, 3}
    assert max(g.unit for g in run.gates_list if g.unit is not None) == 2


@pytest.mark.parametrize("mode", ["fast", "prune"])
def test_a_stopped_search_goes_on_bit_for_bit(backbone, tmp_path, mode):
    whole = search(backbone, tmp_path / "whole", mode=mode)
    with pytest.raises(KeyboardInterrupt):
        search(backbone, tmp_path / "cut", mode=mode, callbacks=[StopAt(3)])
    again = s3.search(resume=tmp_path / "cut", task=mood_data(32, 16), load=LOAD, **QUIET)
    assert np.array_equal(again.alphas(), whole.alphas())
    assert again.structure() == whole.structure()


def test_one_go_hands_out_the_ranks_that_it_trained(backbone, tmp_path):
    run = search(backbone, tmp_path / "run", mode="prune", save=str(tmp_path / "adapter"))
    adapter = s3.Adapter.from_pretrained(tmp_path / "adapter")
    assert ranks(adapter.structure) == ranks(run.structure())
    assert adapter.scores


def test_tune_evaluate_and_explain(run, backbone, tmp_path):
    place = {"task": mood_data(32, 16), "load": LOAD, "device": "cpu", **QUIET}
    scores = s3.tune(run.structure(), backbone=str(backbone), steps=4, save=str(tmp_path / "adapter"), **place)
    assert scores.pet_params == run.structure().n_params
    again = s3.evaluate(tmp_path / "adapter", task=place["task"], load=LOAD, device="cpu")
    assert dict(again) == pytest.approx(dict(scores.metrics))
    explained = s3.explain(run.structure(), backbone=str(backbone), steps=2, **place)
    assert len(explained.table) == len(run.structure())


def test_scores_and_baselines(run, backbone):
    place = {"task": mood_data(32, 16), "backbone": str(backbone), "load": LOAD, "device": "cpu", **QUIET}
    scores = s3.score(budget="3%", space=SPACE, rows=8, **place)
    assert ranks(scores.structure())
    table = s3.baselines(budget="3%", space=SPACE, methods=["random"], n_random=1, seeds=1, structures={"found": run.structure()}, steps=2, **place)  # fmt: skip
    assert set(table["method"]) == {"random", "found"}


def test_panels_and_the_matrix_tell_the_same_overlap(run, backbone, tmp_path):
    other = search(backbone, tmp_path / "other", mode="single-level", seed=4)
    overlap = run.structure().overlap(other.structure())
    assert set(ranks(run.structure())) & set(ranks(other.structure()))
    words = [a.text for a in s3.figures.multiples([run, other]).layout.annotations]
    assert any(f"overlap with the first {overlap:.2f}" in text for text in words)
    assert s3.figures.overlap_table([run, other])["gates"][1] == overlap


def test_reports_and_pictures(run, tmp_path):
    page = s3.report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert '"unit"' in page.replace("\\u0022", '"')
    assert "sum of p" in s3.figures.heatmap(run).data[0].colorbar.title.text
    assert "few-steps" in {finding.code for finding in s3.health([run])}, "health reads it, and says what six steps are"


@pytest.mark.usefixtures("studies_in_threads")
def test_a_sweep_over_ranks(backbone, tmp_path):
    study = s3.sweep(
        tasks=["sentiment"], budgets=["3%"], seeds=2, steps=2, tune_steps=2, space=SPACE, backbone=str(backbone),
        methods=["searched"], workers=1, out=tmp_path / "study", device="cpu", load={"max_rows": 48}, **QUIET,
    )  # fmt: skip
    assert {cell["kind"] for cell in study.cells} >= {"search", "tune"}
    assert all(ranks(r.structure()) for r in study.runs())
    assert len(study.agreement())
