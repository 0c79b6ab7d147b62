"""`score`: GoRA and PLoP against the formulas in NumPy, exact budgets, every family, bad input, agreement of tasks."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from problems import MOOD, STRENGTH, mood_data, mood_rows, tiny_model
from tiny_families import TINY, tiny_family
from tuning_problems import BIASES
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.analysis.measures import spearman
from s3pet_viz.analysis.one_pass import OnePassScores, TaskScores
from s3pet_viz.analysis.placement import gora_ranks
from s3pet_viz.backbones import positions
from s3pet_viz.cli import app
from s3pet_viz.config.names import ONE_PASS_METHODS
from s3pet_viz.errors import BackboneError, BudgetError, ConfigError, NonFiniteLossError, SpaceError, TaskError
from s3pet_viz.training import pair
from s3pet_viz.training.model_state import reset_head
from s3pet_viz.tuning import Workbench, baselines, one_pass

LINEAR = {"gates": [{"type": "LoRA", "modules": ["SelfAttn.*", "FFN.W1*", "FFN.W2"]}]}
CROSS = {"gates": [{"type": "LoRA", "modules": ["SelfAttn.?", "CrossAttn.?", "FFN.W1", "FFN.W2"]}]}
QUIET = {"progress": False, "device": "cpu"}
SPACES = {"t5": CROSS, "bert": "S3PET-L", "gpt2": "S3PET-L", "deberta-v2 / v3": "S3PET-L"}


def bench_of(name: str, rows: int = 24, double: bool = True) -> Workbench:
    tiny = tiny_family(name)
    model = tiny.model(layers=1).double() if double else tiny.model(layers=1)
    return Workbench.open(mood_data(rows, 8), model=model, tokenizer=tiny.make_tokenizer(), task_spec=MOOD, device="cpu")


def numbers_of(position, shape):
    """Fixed draws, whatever was drawn before."""
    return np.random.default_rng([zlib.crc32(position.encode()), *shape]).standard_normal(shape)


def weight_of(layer) -> np.ndarray:  # (out, in)
    weight = layer.target.weight.detach().numpy()
    return weight.T if type(layer.target).__name__ == "Conv1D" else weight


@pytest.fixture(scope="module", params=list(SPACES))
def double(request):
    wb = bench_of(request.param)
    return wb, SPACES[request.param]


# -- the formulas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5", "bert", "gpt2"])
def test_gora_by_hand(name):
    wb, space = bench_of(name), SPACES[name]
    made = s3.score(workbench=wb, method="gora", space=space, batch_size=7, seed=3, budget=300, progress=False)
    model, features = wb.backbone.model, wb.splits.train
    layers = {p.name: p for p in positions(model) if p.kind == "linear"}
    kept = {n: p.detach().clone() for n, p in wb.backbone.head.items()}
    sums = dict.fromkeys((g.position for g in made.gates), 0.0)
    with wb.working():
        reset_head(wb.backbone, 3)
        model.requires_grad_(True)
        for i in range(len(features)):  # a row at a time, with the model's own loss
            model.zero_grad()
            batch = features.batch([i], "cpu")
            made_here = model(**batch)
            loss = made_here.loss
            if wb.backbone.causal:  # its own is taken in float32
                answer = batch["labels"][0, 1:] != -100
                loss = -made_here.logits[0, :-1].log_softmax(-1)[answer, batch["labels"][0, 1:][answer]].mean()
            loss.backward()
            for name in sums:
                sums[name] = sums[name] + layers[name].target.weight.grad.numpy()
    with torch.no_grad():
        for name, p in wb.backbone.head.items():
            p.copy_(kept[name])
    expected = [
        np.mean(np.abs(layers[g.position].target.weight.detach().numpy() * sums[g.position] / len(features)))
        for g in made.gates
    ]
    assert min(expected) > 0
    np.testing.assert_allclose(made.score, expected, rtol=1e-9)
    assert (made.rows, made.steps, made.warm_steps) == (24, 4, 0)  # batches of 7, 7, 7, 3


def test_plop_by_hand(double):
    """Row by row and token by token, the padding left out."""
    wb, space = double
    draw = lambda position, shape: torch.from_numpy(numbers_of(position, shape))  # noqa: E731
    made = s3.score(workbench=wb, method="plop", space=space, batch_size=7, budget=300, draw=draw, progress=False)
    model, features = wb.backbone.model, wb.splits.train
    layers = {p.name: p for p in positions(model) if p.kind == "linear"}
    names = [g.position for g in made.gates]
    inputs: dict[str, list[np.ndarray]] = {}
    handles = [
        layers[n].target.register_forward_hook(lambda m, a, o, n=n: inputs.setdefault(n, []).append(a[0].detach().numpy()))
        for n in names
    ]
    nfn: dict[str, list[float]] = {n: [] for n in names}
    with wb.working(), torch.no_grad():
        for rows in features.by_length(7):
            inputs.clear()
            batch = features.batch(rows, "cpu")
            model(**batch)
            for n in names:
                layer, z = layers[n], inputs[n][0].reshape(len(rows), -1, layers[n].in_features)
                gauss = numbers_of(n, z.shape)
                decoder = layer.stack == "decoder" and wb.backbone.form == "text" and not wb.backbone.causal
                own = decoder and layer.module not in ("CrossAttn.K", "CrossAttn.V")
                tokens = (batch["labels"] != -100 if own else batch["attention_mask"] == 1).numpy()
                for r in range(len(rows)):
                    ratios = []
                    for t in range(z.shape[1]):
                        if tokens[r, t] and np.linalg.norm(z[r, t]) > 0:
                            g = gauss[r, t] / np.linalg.norm(gauss[r, t]) * np.linalg.norm(z[r, t])
                            weight = weight_of(layer)
                            ratios.append(np.linalg.norm(weight @ z[r, t]) / np.linalg.norm(weight @ g))
                    if ratios:
                        nfn[n].append(np.mean(ratios))
    for handle in handles:
        handle.remove()
    mean = np.array([np.mean(nfn[n]) for n in names])
    np.testing.assert_allclose(1 / made.score, mean, rtol=1e-9)
    assert (made.rows, made.steps) == (24, 4)
    # the order: types by their mean over layers, the lowest first, inside a type each by its own
    modules = np.array([g.module for g in made.gates])
    types = {m: mean[modules == m].mean() for m in modules}
    expected = sorted(range(len(mean)), key=lambda i: (types[modules[i]], mean[i]))
    assert np.argsort(made.table()["rank"].to_numpy()).tolist() == expected


def test_draws_of_another_shape():
    wb = bench_of("bert")
    for draw, found in ((lambda name, shape: torch.ones(3), r"\(3,\)"), (lambda name, shape: 1.0, "float")):
        with pytest.raises(ConfigError, match=rf"draw: expected a tensor of shape \(24, \d+, 32\) for .*, found {found}"):
            s3.score(workbench=wb, method="plop", budget=400, draw=draw, progress=False)
    assert not any(m._forward_hooks for m in wb.backbone.model.modules())


def test_a_layer_s_score_is_its_own_whatever_the_space():
    wb = bench_of("t5")
    for method in ("gora", "plop"):
        small, whole = (
            s3.score(workbench=wb, method=method, space=s, rows=8, budget=600, progress=False) for s in ("S3PET-L", CROSS)
        )
        of = {g.position: s for g, s in zip(whole.gates, whole.score, strict=True)}
        np.testing.assert_allclose(small.score, [of[g.position] for g in small.gates], rtol=1e-12)


# -- structures ----------------------------------------------------------------------------------------------


def units(score, sizes, n, budget):
    """Scores of a space that offers ranks: n rank-one units at each position."""

    gates = [
        s3.Gate(n * i + k, f"block.{i}.q", "encoder", i, "SelfAttn.Q", "LoRA", size, {"r": 1}, k)
        for i, size in enumerate(sizes)
        for k in range(n)
    ]
    return OnePassScores(
        kind="gora", gates=tuple(gates), score=np.repeat(np.array(score, float), n), rows=8, warm_steps=0, steps=1,
        seconds=0.5, seed=0, task="mood", backbone="tiny", backbone_params=100_000, budget=budget,
    )  # fmt: skip


@pytest.mark.parametrize("budget", [40, 97, 260, 500, 10_000])
@pytest.mark.filterwarnings("ignore:budget. .* holds the whole search space")
def test_gora_gives_ranks_where_the_space_offers_units(budget):
    score, sizes = [5.0, 1.0, 2.5, 0.0], [16, 36, 20, 40]
    made = units(score, sizes, 4, budget)
    ranks = gora_ranks(score, sizes, [0] * 4, budget, most=4).ranks
    chosen = made.table()["chosen"].to_numpy().reshape(4, 4)
    assert chosen.sum(1).tolist() == ranks.tolist()
    assert (chosen == (np.arange(4) < ranks[:, None])).all()  # the first units
    assert made.alpha.reshape(4, 4)[:3].argmax(1).tolist() == [0, 0, 0]
    assert (np.diff(made.alpha.reshape(4, 4)[:3]) < 0).all()


@pytest.mark.parametrize("inside", [[5, 4], [7], [0, 1, 8]])
def test_units_pinned_in_are_the_first_ranks(inside):
    """GoRA gives the whole budget's ranks, of which those pinned in are some."""
    score, sizes, budget = [5.0, 1.0, 2.5, 0.5], [16, 36, 20, 40], 300
    whole = units(score, sizes, 4, budget)
    rest = [i for i in range(16) if i not in inside]
    pinned = {"pinned_in": tuple(whole.gates[i] for i in inside), "pin": {"in": ["some"]}}
    made = replace(whole, gates=tuple(whole.gates[i] for i in rest), score=whole.score[rest], **pinned)
    held = np.bincount([i // 4 for i in inside], minlength=4)
    ranks = np.bincount([g.layer for g in made.structure().gates], minlength=4)
    assert ranks.tolist() == gora_ranks(score, sizes, [0] * 4, budget, least=held, most=4).ranks.tolist()
    # Of a layer's units the first in the order is no first rank.
    assert (np.exp(made.alpha) * np.sqrt(made.counts) <= made.score / (1 + held[[i // 4 for i in rest]]) * (1 + 1e-12)).all()


@pytest.mark.filterwarnings("ignore:.*names what this backbone lacks")
def test_eva_counts_units_pinned_in_as_the_first_components(bert):
    space = {"gates": [{"type": "LoRA", "modules": ["SelfAttn.Q", "FFN.W1"], "options": {"ranks": 4}}]}
    given = {"workbench": bert, "method": "eva", "space": space, "rows": 16, "budget": 300, "progress": False}
    free = s3.score(**given)
    pinned = [free.gates[2].name, free.gates[3].name]  # any two of a position
    held = s3.score(**given, pin={"in": pinned})
    by_unit = free.score.reshape(-1, 4)
    np.testing.assert_array_equal(held.score[:2], by_unit[0, 2:])
    np.testing.assert_array_equal(held.score[2:], by_unit[1:].ravel())
    out = s3.score(**given, pin={"out": pinned})
    np.testing.assert_array_equal(out.score[:2], by_unit[0, :2])


def test_what_a_result_holds(bert):
    made = s3.score(workbench=bert, method="gradient/param", rows=16, budget=400, seed=2, progress=False)
    structure, table = made.structure(), made.table()
    assert (structure.budget, made.budget, made.per) == (400, 400, "param")
    assert {"gate", "position", "n_params", "score", "rank", "chosen"} <= set(table.columns)
    assert table.loc[table.chosen, "position"].tolist() == [g.position for g in structure.gates]
    assert structure.source["baseline"] == "gradient/param"
    assert (structure.source["steps"], structure.source["rows"]) == (1, 16)
    assert structure.source["seconds"] > 0
    assert made.structure(200, "gate").source["baseline"] == "gradient"
    assert made.at(200).p @ made.counts == pytest.approx(200, rel=1e-6)
    np.testing.assert_allclose(made.alpha, np.log(np.maximum(made.per_param, 1e-30)))
    assert made.p @ made.counts == pytest.approx(400, rel=1e-6)
    page = made._repr_html_()
    assert "1 pass forward and backward over 16 rows" in page
    assert "chosen" in page
    assert repr(made).startswith("OnePassScores(gradient/param on mood: ")
    with pytest.raises(ConfigError, match="per: expected 'gate' for 'gora', which has a rule of its own"):
        units([1, 2], [4, 4], 1, 8).structure(per="param")


def test_figures_take_scores(bert):
    made = s3.score(workbench=bert, rows=16, budget=400, progress=False)
    figure = made.heatmap(value="alpha")
    assert isinstance(figure, go.Figure)
    told = s3.figures.heatmap_table(made)
    assert told["selected"].tolist() == made.table()["chosen"].tolist()
    np.testing.assert_array_equal(told["alpha"], made.alpha)
    for drawn in (s3.figures.budget_path(made), s3.figures.heatmap([made, made.at(300)])):
        assert isinstance(drawn, go.Figure)
    plop = s3.score(workbench=bert, method="plop", rows=16, budget=400, progress=False)
    assert s3.figures.heatmap_table(plop)["selected"].tolist() == plop.table()["chosen"].tolist()


@pytest.mark.filterwarnings("ignore:budget. .* holds the whole search space", "ignore:.*names what this backbone lacks")
@pytest.mark.parametrize("name", [t.name for t in TINY])
def test_every_method_on_every_family_within_an_exact_budget(name):
    wb = bench_of(name, rows=12, double=False)
    for method in ("gradient", "fisher", "sensitivity", "gora", "plop", "eva"):
        warm = {"warm_steps": 2} if method == "sensitivity" else {}
        made = s3.score(workbench=wb, method=method, space="S3PET-L", rows=8, budget=300, progress=False, **warm)
        assert np.isfinite(made.score).all()
        assert (made.score >= 0).all()
        for budget in (made.counts.min(), 200, 300, int(made.counts.sum()) - 1):
            structure = made.structure(int(budget))
            sizes = [g.n_params for g in made.gates if g.key not in structure.keys]
            assert structure.n_params <= budget < structure.n_params + min(sizes)


def test_baselines_run_them_by_name(bert):
    table = baselines(
        workbench=bert, budget=300, space="S3PET-L", seeds=1, methods=["gora", "plop", "gradient"], progress=False,
        steps=2, batch_size=8, evaluations=1,
    )  # fmt: skip
    assert list(table.method) == ["gora", "plop", "gradient"]
    assert (table.pet_params <= 300).all()
    with pytest.raises(SpaceError, match=r"method 'plop' scores linear layers: expected LoRA alone, found BitFit; take"):
        baselines(workbench=bert, budget=200, space=BIASES, methods=["random", "plop"], progress=False)


# -- several tasks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    for name, seed in (("one", 1), ("two", 5)):
        (root / name).mkdir()
        (root / name / "task.json").write_text(json.dumps({**MOOD, "name": name}))
        for split, rows in (("train", 40), ("validation", 10)):
            lines = [json.dumps(r) + "\n" for r in mood_rows(rows, seed + len(split))]
            (root / name / f"{split}.jsonl").write_text("".join(lines))
    return [str(root / "one"), str(root / "two")]


@pytest.mark.parametrize("method", ["gradient", "plop"])
def test_how_far_tasks_agree(folders, tiny_folder, method):
    made = s3.score(tasks=folders, backbone=tiny_folder("t5"), method=method, rows=16, budget="2%", **QUIET)
    assert isinstance(made, TaskScores)
    assert list(made) == ["one", "two"]
    matrix = made.correlation()
    assert isinstance(matrix, pd.DataFrame)
    assert matrix.loc["one", "two"] == spearman(made["one"].score, made["two"].score)
    assert matrix.loc["one", "one"] == pytest.approx(1)
    alone = s3.score(task=folders[1], backbone=tiny_folder("t5"), method=method, rows=16, budget="2%", **QUIET)
    np.testing.assert_array_equal(alone.score, made["two"].score)
    assert "Rank correlation (Spearman)" in made._repr_html_()
    figure = made.heatmap()
    assert isinstance(figure, go.Figure)
    assert method in figure.layout.title.text


def test_a_language_model_is_read_once_for_all_tasks(folders, tiny_folder, monkeypatch):
    read, load = [], pair.load_backbone
    monkeypatch.setattr(pair, "load_backbone", lambda *a, **k: read.append(a) or load(*a, **k))
    for form, times in (("t5", 1), ("bert", 3)):  # an encoder's head is the task's
        made = s3.score(tasks=folders, backbone=tiny_folder(form), rows=8, budget="2%", **QUIET)
        assert len(made) == 2
        assert len(read) == times
        read.clear()


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "magnitude"}, ConfigError, "method: expected one of gradient, .*gora, plop, .*found 'magnitude'"),
        ({"method": "gora", "space": "S3PET-M"}, SpaceError, "expected LoRA alone, found BitFit, .*take .*'S3PET-L'"),
        ({"method": "plop", "space": {"gates": [{"type": "BitFit", "modules": ["*.LN"]}]}}, SpaceError, "found BitFit;"),
        ({"budget": "0%"}, BudgetError, "above zero"),
        ({"space": "S3PET-Z"}, SpaceError, "S3PET-Z"),
        ({"rows": 0}, ConfigError, "rows: expected a whole number of at least 1, found 0"),
        ({"lr": 3}, ConfigError, r"unknown option 'lr' \(expected one of method, seed, rows"),
        ({"task": None}, ConfigError, r"task: expected a task, or tasks=\[...\], found none"),
        ({"tasks": ["a", "b"]}, ConfigError, "tasks: expected no task beside them"),
        ({"task": None, "tasks": "sentiment"}, ConfigError, "tasks: expected a list of different names .* found 'sentiment'"),
        ({"task": None, "tasks": ["a", "a"]}, ConfigError, "tasks: expected a list of different names"),
        ({"draw": 5}, ConfigError, "draw: expected a function, found 5"),
        ({"method": "sensitivity/param", "warm_steps": 0}, ConfigError, "warm_steps: expected at least 1 for 'sensitivity'"),
        ({"method": "eva", "warm_steps": 3}, ConfigError, "warm_steps: expected 0 for 'eva', which is of untrained modules, .* 3"),
        ({"task": None, "tasks": ["sentiment", "sentimnet"]}, TaskError, "task 'sentimnet': expected"),
    ],
)
def test_refused_before_a_backbone_is_loaded(options, error, says, monkeypatch):
    monkeypatch.setattr(pair, "load_backbone", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(error, match=says):
        s3.score(**{"task": "sentiment", "backbone": "tiny-t5", **QUIET, **options})


@pytest.mark.parametrize("method", ["gradient", "gora", "plop"])
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"budget": 5}, BudgetError, "5 parameters is below the smallest module of the search space"),
        ({"space": {"gates": [{"type": "LoRA", "modules": ["CrossAttn.Q"]}]}}, SpaceError, "nothing matches this backbone"),
        ({"space": {"gates": [{"type": "LoRA", "modules": ["SelfAttn.LN"]}]}}, SpaceError, "LoRA cannot go on SelfAttn.LN"),
    ],
)
def test_refused_before_the_model_is_at_work(bert, monkeypatch, method, options, error, says):
    monkeypatch.setattr(one_pass, "insert", lambda *a, **k: pytest.fail("it started"))
    monkeypatch.setattr(Workbench, "working", lambda *a, **k: pytest.fail("it started"))
    with pytest.raises(error, match=says):
        s3.score(workbench=bert, **{"method": method, "budget": 400, "progress": False, **options})


def test_a_later_task_is_refused_before_the_first_is_scored(folders, tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "task.json").write_text(json.dumps({**MOOD, "name": "empty"}))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("")
    monkeypatch.setattr(Workbench, "working", lambda *a, **k: pytest.fail("it started"))
    with pytest.raises(TaskError, match="train"):
        s3.score(tasks=[folders[0], str(tmp_path)], backbone=tiny_folder("t5"), **QUIET)
    with pytest.raises(BackboneError, match="expected a language model"):
        s3.score(tasks=[folders[0], "headline"], backbone=tiny_folder("bert"), **QUIET)


def test_no_rows_and_a_model_without_weights_that_can_be_scored():
    tiny = tiny_family("bert")
    with pytest.raises(TaskError, match="train"):
        s3.score(
            task={**mood_data(8, 4), "train": []}, model=tiny.model(), tokenizer=tiny.make_tokenizer(),
            load={"task_spec": MOOD}, **QUIET,
        )  # fmt: skip
    with pytest.raises(BackboneError):
        s3.score(task=mood_data(8, 4), model=torch.nn.Linear(2, 2), tokenizer=tiny.make_tokenizer(), **QUIET)
    wb = bench_of("bert")
    layer = next(p for p in positions(wb.backbone.model) if p.module == "SelfAttn.V")
    with torch.no_grad():
        layer.target.weight.zero_()
    with pytest.raises(NonFiniteLossError, match=f"plop scores on mood: the score of {layer.name} LoRA is not finite"):
        s3.score(workbench=wb, method="plop", budget=400, progress=False)


def test_rows_with_numbers_for_labels():
    tiny = tiny_family("bert")
    rows = {k: [{"text": r["text"], "label": float(r["label"])} for r in v] for k, v in mood_data(16, 8).items()}
    model = tiny_model("bert", num_labels=1, problem_type="regression")
    for method in ("gora", "plop"):
        made = s3.score(
            task=rows, model=model, tokenizer=tiny.make_tokenizer(), method=method, budget=400, load={"task_spec": STRENGTH},
            **QUIET,
        )  # fmt: skip
        assert made.structure().n_params <= 400


# -- the command ---------------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments), "--device", "cpu", "--quiet"], env={"COLUMNS": "120"})


def test_the_command(folders, tiny_folder, tmp_path):
    out, table, page = tmp_path / "s.json", tmp_path / "t.csv", tmp_path / "h.html"
    both = ("--backbone", tiny_folder("t5"), "--budget", 600, "--rows", 16)
    done = invoke("--task", folders[0], *both, "--method", "gora", "--output", out, "--table", table, "--html", page)
    assert done.exit_code == 0, done.output
    assert "1 pass forward and backward over 16 rows" in done.output
    structure = s3.Structure.load(out)
    assert structure.n_params <= 600
    assert structure.source["baseline"] == "gora"
    assert pd.read_csv(table)["chosen"].sum() == len(structure)
    done = invoke("--task", folders[0], *both, "--method", "domlora", "--output", tmp_path / "one.json")
    assert done.exit_code == 0, done.output
    (gate,) = s3.Structure.load(tmp_path / "one.json").gates
    assert gate.options["r"] > 1
    assert re.search(rf"{re.escape(gate.module)} +LoRA +{gate.n_params:,} ", done.output)  # at its rank, not the space's
    assert "plotly" in page.read_text()
    assert invoke("--task", folders[0], *both, "--out", out).exit_code == 2  # it is there
    matrix = tmp_path / "m.csv"
    done = invoke("--tasks", ",".join(folders), *both, "--out", matrix, "--table", tmp_path / "all.csv")
    assert done.exit_code == 0, done.output
    assert pd.read_csv(matrix, index_col=0).shape == (2, 2)
    assert set(pd.read_csv(tmp_path / "all.csv")["task"]) == {"one", "two"}
    for wrong in ((), ("--task", "a", "--tasks", "b")):
        done = invoke(*wrong)
        assert done.exit_code == 2
        assert "--task: expected a task, or --tasks" in done.output
    assert invoke("--task", folders[0], "--method", "nothing").exit_code == 2


def test_the_help_names_every_method():
    text = " ".join(CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).output.split())
    for name in ONE_PASS_METHODS:
        assert name in text
