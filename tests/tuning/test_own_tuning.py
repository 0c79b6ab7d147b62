"""`tune`, `explain`, `score`, `baselines` and `sweep` with batches and a loss of the user's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_problems import (
    SPACE,
    TOWER_SPACE,
    accuracy,
    contrastive,
    picture_batches,
    picture_loss,
    pictures,
    tower_batches,
    towers,
    vit,
)
from torch.utils.data import DataLoader, default_collate

import s3pet_viz as s3
from s3pet_viz.errors import AdapterError, ConfigError, ExportError, NonFiniteLossError, StudyError

GIVEN = {"loss": picture_loss, "score": accuracy, "progress": False, "lr": 1e-2}
TOWERS = {"loss": contrastive, "progress": False, "lr": 1e-2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return s3.search(
        model=vit(), space=SPACE, budget=120, steps=8, out=tmp_path_factory.mktemp("own") / "run", **{**GIVEN, **picture_batches()}
    )


def parts(**changes):
    made = {"train": tower_batches(6, 1), "validation": tower_batches(3, 2), "test": tower_batches(3, 3)}
    return {name: part for name, part in {**made, **changes}.items() if part is not None}


@pytest.fixture(scope="module")
def tower_run(tmp_path_factory):
    return s3.search(
        model=towers(), space=TOWER_SPACE, budget=60, steps=4, head=["ends", "temperature"], out=tmp_path_factory.mktemp("own") / "run", **TOWERS, **parts()
    )


# -- tune --------------------------------------------------------------------------------------------------


def test_the_best_weights_are_scored_kept_and_attached(run, tmp_path):
    model = vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = s3.tune(run, model=model, steps=40, save=tmp_path / "adapter", **GIVEN, **picture_batches())
    assert scores.score == scores.metrics["score"] > 0.7
    assert scores.decided_on == "validation: DataLoader of 2 batches"
    assert (scores.task, scores.head_params) == ("own loss picture_loss", 34)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = s3.tune(run.structure(), model=vit(), steps=40, **GIVEN, **picture_batches())
    assert again.metrics == scores.metrics
    adapter = s3.Adapter.from_pretrained(tmp_path / "adapter")
    test = DataLoader(pictures(16, 3), batch_size=8)
    model.eval()
    with adapter.attach(model), torch.no_grad():
        assert accuracy(model, test) == scores.score
    assert s3.evaluate(adapter, model=model, loss=picture_loss, score=accuracy, **picture_batches()) == scores.metrics
    with pytest.raises(AdapterError, match="expected the weights of"):
        torch.manual_seed(9)
        adapter.attach(type(model)(model.config))
    with pytest.raises(AdapterError, match="trained with a loss of the user's on ViTForImageClassification"):
        adapter.load_backbone()
    with pytest.raises(ExportError, match="expected a model of transformers that reads tokens"):
        s3.merge(adapter, backbone=model, folder=tmp_path / "merged")


def test_validation_is_scored_where_there_is_no_test(tower_run):
    with pytest.warns(UserWarning, match="test: none was given, so validation is scored, which also chose"):
        scores = s3.tune(tower_run, model=towers(), steps=4, **TOWERS, **parts(test=None))
    assert scores.metrics == scores.validation
    assert scores.decided_on == "validation: list of 3 batches, which are scored too: no test= was given"
    assert scores.score == -scores.metrics["loss"]
    assert scores.head_params == 16 * 6 + 6 + 8 * 6 + 6 + 1  # the search's own head


def test_auto_steps_decide_on_the_held_out_loss(tower_run):
    scores = s3.tune(tower_run, model=towers(), steps="auto", max_steps=60, evaluations=12, patience=3, **TOWERS, **parts())
    assert scores.steps == "auto"
    losses = [look["loss"] for look in scores.history]
    assert scores.validation["loss"] == min(losses)
    assert min(losses) < 0.8 * losses[0]


def test_evaluation_weighs_batches_by_their_rows(tower_run):
    sizes = [parts()["test"][0], {"words": parts()["test"][1]["words"][:2], "more": [parts()["test"][1]["more"][0][:2]]}]
    scores = s3.tune("untouched", model=towers(), **TOWERS, **parts(test=sizes))
    model = towers().eval()
    with torch.no_grad():
        losses = [float(contrastive(model, batch)) for batch in sizes]
    assert scores.metrics["loss"] == pytest.approx((6 * losses[0] + 2 * losses[1]) / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("score", "found"),
    [
        (lambda m, b: {"recall": 0.5, "score": 0.25}, {"score": 0.25, "recall": 0.5}),
        (lambda m, b: {"recall": torch.tensor(0.5), "rank": np.float32(2)}, {"score": 0.5, "recall": 0.5, "rank": 2.0}),
        (lambda m, b: len(list(b)), {"score": 3.0}),
    ],
)
def test_what_a_score_may_return(score, found):
    scores = s3.tune("untouched", model=towers(), score=score, **TOWERS, **parts())
    assert {name: value for name, value in scores.metrics.items() if name != "loss"} == found


@pytest.mark.parametrize(
    ("score", "kind", "words"),
    [
        (lambda m, b: "good", ConfigError, "score: expected a number, or a mapping of names to numbers, found 'good'"),
        (lambda m, b: {"loss": 1.0}, ConfigError, "score: expected a number, or names other than 'loss'"),
        (lambda m, b: float("nan"), NonFiniteLossError, "score: score is nan"),
        (lambda m, b: b.missing, ConfigError, "score: ends in AttributeError"),
    ],
)
def test_what_a_score_may_not_return(score, kind, words):
    with pytest.raises(kind, match=words):
        s3.tune("untouched", model=towers(), score=score, **TOWERS, **parts())


def test_a_score_that_needs_all_batches_is_not_refused_for_one():
    def score(model, batches):
        found = list(batches)
        if len(found) < 2:
            raise ValueError("only one class")
        return 1.0

    assert s3.tune("untouched", model=towers(), score=score, **TOWERS, **parts()).score == 1.0


def test_what_training_refuses(run, tmp_path):
    with pytest.raises(ConfigError, match="run: expected model=, loss=, train= and validation= as the search was given them"):
        s3.tune(run)
    with pytest.raises(ConfigError, match="expected model=, loss=, train= and validation= .*own loss picture_loss"):
        s3.tune(run.structure())
    for change, words in (
        ({"eval_batch_size": 8}, "eval_batch_size: expected none"), ({"train_pooler": True}, "train_pooler: expected none .*head= names"),
        ({"load": {"name": "rte"}}, "name: expected none"), ({"load": {"seed": 3}}, "load: seed: expected none with a loss of your own"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            s3.tune(run, model=vit(), **change, **GIVEN, **picture_batches())


# -- rows and a collate function ---------------------------------------------------------------------------


def test_rows_of_datasets_with_a_collator():
    """A `datasets.Dataset`, the same rows as a list, and the batches that a loader makes of them score alike."""
    datasets = pytest.importorskip("datasets")
    pixels, labels = pictures(12, 3).tensors
    listed = [{"pixels": p.tolist(), "label": int(y)} for p, y in zip(pixels, labels, strict=True)]

    def collate(rows):
        return torch.tensor([row["pixels"] for row in rows]), torch.tensor([row["label"] for row in rows])

    found = []
    for make in (datasets.Dataset.from_list, list, lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset()):
        rows = {name: make(listed) for name in ("train", "validation", "test")}
        scores = s3.tune(
            "head", model=vit(), collate=collate, batch_size=4, eval_batch_size=5, steps=3, load={"max_rows": 12}, **GIVEN, **rows
        )
        found.append(scores.metrics)
    assert found[0] == found[1]
    assert found[2]["score"] in {k / 12 for k in range(13)}


def test_fisher_of_rows_one_by_one(run):
    """With a collate function batches of one row can be made, as the score is defined."""
    rows = list(pictures(6, 1))
    made = s3.score(
        model=vit(), loss=picture_loss, train=rows, validation=list(pictures(4, 2)), collate=default_collate, method="fisher", budget=120, space=SPACE, progress=False
    )
    assert made.rows == 6
    model = vit()
    from s3pet_viz.pet import insert

    pets = insert(model.eval(), made.gates)
    expected = np.zeros(len(made.gates))
    for row in rows:
        loss = picture_loss(model, default_collate([row]))
        for i, pet in enumerate(pets):
            grads = torch.autograd.grad(loss, list(pet.parameters()), retain_graph=True, allow_unused=True)
            expected[i] += sum(float(g.double().square().sum()) for g in grads if g is not None) / len(rows)
    np.testing.assert_allclose(made.score, expected, rtol=1e-4)


# -- explain, score, baselines -----------------------------------------------------------------------------


def test_explain_measures_batches(tower_run):
    made = s3.explain(tower_run, model=towers(), steps=6, **TOWERS, **parts())
    assert made.n_rows == 3
    assert "(3 batches)" in made.summary
    assert made.unit == "own loss contrastive"
    assert np.isfinite(made.table["loss_increase"]).all()
    assert (made.table["loss_increase_se"] > 0).any()
    made.save(tower_run)
    assert s3.Explanation.load(tower_run).measured == "batches"
    first = s3.explain(tower_run, model=towers(), steps=6, rows=7, metric=False, **TOWERS, **parts())
    assert first.n_rows == 2


@pytest.mark.parametrize("method", ["gradient", "sensitivity", "gora", "domlora"])
def test_one_pass_scores(method):
    space = TOWER_SPACE if method in ("gradient", "sensitivity") else {"gates": [{"type": "LoRA", "modules": ["FFN.*"]}]}
    warm = 2 if method == "sensitivity" else None
    options = {name: value for name, value in TOWERS.items() if name != "lr"}
    made = s3.score(model=towers(), method=method, space=space, budget=40, warm_steps=warm, **options, **parts())
    assert made.rows == 36
    assert (made.score > 0).any()
    assert 0 < made.structure(60).n_params <= 60


def test_scores_of_tokens_are_refused():
    for method in ("plop", "eva"):
        with pytest.raises(ConfigError, match=f"expected one of gradient, .* with a loss of your own, found '{method}', which reads the tokens"):
            s3.score(model=towers(), method=method, budget=40, loss=contrastive, space={"gates": [{"type": "LoRA", "modules": ["FFN.*"]}]}, **parts())


def test_baselines():
    table = s3.baselines(
        model=vit(), budget=120, space=SPACE, seeds=1, n_random=1, methods=["head", "random", "full", "untouched", "LoRA-everywhere"], steps=2, **GIVEN, **picture_batches()
    )
    assert list(table["method"]) == ["head", "random", "full", "untouched", "LoRA-everywhere"]
    rows = table.set_index("method")
    size = sum(p.numel() for p in vit().vit.parameters())
    assert rows["pet_params"]["full"] == size
    assert (rows["head_params"].drop("untouched") == 34).all()
    with pytest.raises(ConfigError, match="AdaLoRA"):
        s3.baselines(model=vit(), methods=["AdaLoRA"], steps=4, budget=600, **GIVEN, **picture_batches())


# -- sweep -------------------------------------------------------------------------------------------------


def test_a_sweep_runs_here_and_goes_on(tmp_path):
    done = []
    asked = {
        "model": towers(), "budgets": [60, 30], "seeds": 1, "space": TOWER_SPACE, "steps": 3, "tune_steps": 2, "out": tmp_path / "study",
        "methods": ["searched", "resolved", "random"], "on_cell": lambda cell, result: done.append(result["status"]), **TOWERS, **parts(),
    }  # fmt: skip
    study = s3.sweep(**asked)
    assert done == ["done"] * 7
    table = study.table()
    assert set(table["task"]) == {"own loss contrastive"}
    assert len(study.runs()) == 2
    s3.sweep(**asked)
    assert len(done) == 7
    with pytest.raises(StudyError, match="was planned with other options .*first_loss"):
        s3.sweep(**{**asked, "train": tower_batches(6, 9)})
    for change, words in (
        ({"workers": 2}, "workers: expected none .*all cells run here"),
        ({"tasks": ["sentiment"]}, "expected a task, or batches and a loss of your own, found both"),
        ({"batch_size": 4}, "batch_size: expected none"),
        ({"loss": None, "train": None, "validation": None, "test": None}, "model: expected loss=, train= and validation= beside it"),
        ({"methods": ["AdaLoRA"]}, "AdaLoRA"),
    ):
        with pytest.raises(ConfigError, match=words):
            s3.sweep(**{**asked, **change})
