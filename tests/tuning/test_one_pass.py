"""One-pass scores: gates with a known answer, structures within the budget, and that nothing stays behind."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MOOD, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from tuning_problems import BIASES, FAST, bench, structure_for
from typer.testing import CliRunner

from s3pet_viz.backbones import positions
from s3pet_viz.cli import app
from s3pet_viz.config.names import LAYER_SCORES
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import BudgetError, ConfigError, NonFiniteLossError, SpaceError, StructureError
from s3pet_viz.pet import PRESETS, Space, SpaceEntry, candidate_gates, insert
from s3pet_viz.structure import Gate
from s3pet_viz.training.model_state import reset_head
from s3pet_viz.tuning import (
    ONE_PASS,
    ONE_PASS_METHODS,
    OnePassScores,
    Workbench,
    baselines,
    one_pass,
    one_pass_scores,
    one_pass_structure,
)
from s3pet_viz.tuning.api import DEFAULT_BASELINES
from s3pet_viz.tuning.explain import gate_gradients, row_losses
from s3pet_viz.tuning.one_pass import score_gates

QUIET = {"progress": False}
#: They score linear layers, or LoRA alone, and train nothing before it.
LAYERS = {kind: {"space": "S3PET-L", "warm_steps": 0} for kind in LAYER_SCORES}


def double_bench(form: str, rows: int = 24, layers: int = 1) -> Workbench:
    """In float64, and with few training rows."""
    return Workbench.open(
        mood_data(rows, 8), model=tiny_model(form, layers=layers).double(), tokenizer=tokenizer_of(form), task_spec=MOOD,
        device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bert", "t5"])
def double(request) -> Workbench:
    return double_bench(request.param)


@pytest.fixture(scope="module")
def scored(t5) -> OnePassScores:
    return one_pass_scores(t5, "gradient", rows=32, **QUIET)


def row_gradients(wb: Workbench, gates, seed: int = 0) -> np.ndarray:
    """By hand, with `backward` on the model's own loss, a row at a time: (rows, all PET weights in gate order)."""
    model, features = wb.backbone.model, wb.splits.train
    kept = {n: p.detach().clone() for n, p in wb.backbone.head.items()}
    reset_head(wb.backbone, seed)
    pets = insert(model, gates, seed=seed)
    found = []
    with wb.working():
        for i in range(len(features)):
            pets.zero_grad(set_to_none=True)
            model(**features.batch([i], "cpu")).loss.backward()
            found.append(torch.cat([p.grad.flatten() for p in pets.parameters()]).numpy())
    pets.detach()
    with torch.no_grad():
        for name, p in wb.backbone.head.items():
            p.copy_(kept[name])
    return np.stack(found)


def by_gate(squares: np.ndarray, gates) -> np.ndarray:
    ends = np.cumsum([g.n_params for g in gates])
    return np.array([part.sum() for part in np.split(squares, ends[:-1])])


# -- scores --------------------------------------------------------------------------------------------


def test_gradient_and_fisher_by_hand(double):
    gates = double.candidates(PRESETS["S3PET-M"]).gates
    rows = row_gradients(double, gates, seed=3)
    assert rows.shape == (24, sum(g.n_params for g in gates))
    gradient = one_pass_scores(double, "gradient", seed=3, batch_size=7, **QUIET)
    fisher = one_pass_scores(double, "fisher", seed=3, **QUIET)
    expected = by_gate(rows.mean(0) ** 2, gates)
    scale = expected.max()
    np.testing.assert_allclose(gradient.score, expected, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(fisher.score, by_gate((rows**2).mean(0), gates), rtol=1e-9, atol=1e-12 * scale)
    # the same rows: Fisher information is the squared gradient plus the variance of the row gradients
    np.testing.assert_allclose(
        fisher.score, gradient.score + by_gate(rows.var(0), gates), rtol=1e-9, atol=1e-12 * scale
    )
    assert gradient.gates == tuple(gates)
    assert (gradient.rows, gradient.warm_steps, gradient.steps) == (24, 0, 4)  # batches of 7, 7, 7, 3
    assert (fisher.rows, fisher.warm_steps, fisher.steps) == (24, 0, 24)
    assert fisher.seconds > 0


def test_the_batch_size_is_only_a_matter_of_speed_but_for_fisher(double):
    for kind, options in (("gradient", {}), ("sensitivity", {"warm_steps": 2})):
        one, many = (one_pass_scores(double, kind, batch_size=b, **options, **QUIET).score for b in (1, 24))
        np.testing.assert_allclose(one, many, rtol=1e-7, atol=1e-12 * many.max())
    whole = one_pass_scores(double, "fisher", batch_size=24, **QUIET)
    gradient = one_pass_scores(double, "gradient", **QUIET)
    np.testing.assert_allclose(whole.score, gradient.score, rtol=1e-9)  # one group: no variance is left
    assert whole.steps == 1
    # groups of 10, 10 and 4 count by their rows
    gates = double.candidates(PRESETS["S3PET-M"]).gates
    rows = row_gradients(double, gates)
    groups = double.splits.train.by_length(10)
    expected = sum(len(g) * by_gate(rows[g].mean(0) ** 2, gates) for g in groups) / 24
    found = one_pass_scores(double, "fisher", batch_size=10, **QUIET).score
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * expected.max())


def test_fisher_of_one_row_is_its_gradient():
    wb = double_bench("bert", rows=6)
    one = [one_pass_scores(wb, kind, rows=1, seed=5, **QUIET) for kind in ("gradient", "fisher")]
    assert one[0].rows == one[1].rows == 1
    np.testing.assert_allclose(one[0].score, one[1].score, rtol=1e-12)
    assert one[0].score.max() > 0


def test_a_bias_on_the_keys_does_nothing(double):
    """It adds the same to every score of a query, which softmax takes off again."""
    gates = candidate_gates(positions(double.backbone.model), PRESETS["S3PET-M"])[0]
    made = one_pass.score_gates(double, "gradient", gates, **QUIET)
    table = made.table()
    keys = table[(table.module == "SelfAttn.K") & (table.pet_type == "BitFit")].score
    assert len(keys)
    assert (keys < 1e-20 * made.score.max()).all()


SMALL = Space("small", (SpaceEntry("LoRA", ("SelfAttn.V",)), SpaceEntry("LowRankAdapter", ("FFN",))))


def warm_sensitivity(wb: Workbench, monkeypatch, check) -> OnePassScores:
    """Of `SMALL` after 5 warm steps; `check(pets)` runs where the score is taken, with the trained weights in place."""
    original = one_pass.MEASURES["sensitivity"]

    def measure(pets, parts):
        check(pets)
        return original(pets, parts)

    monkeypatch.setitem(one_pass.MEASURES, "sensitivity", measure)
    made = one_pass_scores(wb, "sensitivity", space=SMALL, warm_steps=5, config=TuneConfig(lr=2e-2), **QUIET)
    assert (made.warm_steps, made.steps) == (5, 6)
    assert made.score.min() > 0
    return made


def test_sensitivity_is_the_last_weights_times_their_gradient(double, monkeypatch):
    """A delta is linear in its last weights w, so dL/dz = w . dL/dw."""
    seen = []

    def check(pets):
        pets.zero_grad(set_to_none=True)
        features = double.splits.train
        for i in range(len(features)):
            double.backbone.model(**features.batch([i], "cpu")).loss.backward()
        for pet in pets:
            last = [p for name, p in pet.named_parameters() if name in ("lora_B", "up_right", "up_bias")]
            seen.append(abs(float(sum((p.detach() * p.grad).sum() for p in last))) / len(features))

    made = warm_sensitivity(double, monkeypatch, check)
    np.testing.assert_allclose(made.score, seen, rtol=1e-9)


def test_sensitivity_is_the_derivative_along_a_gate(monkeypatch):
    """Against finite differences; not on T5, whose norms round to float32."""
    wb, step, seen = double_bench("bert", layers=2), 1e-5, []

    def check(pets):
        features = wb.splits.train

        def loss(i, value):
            z = torch.ones(len(pets), dtype=torch.float64)
            z[i] = value
            with torch.no_grad(), pets.gated(z):
                return np.mean([float(wb.backbone.model(**features.batch([k], "cpu")).loss) for k in range(len(features))])

        seen.extend(abs(loss(i, 1 + step) - loss(i, 1 - step)) / (2 * step) for i in range(len(pets)))

    made = warm_sensitivity(wb, monkeypatch, check)
    np.testing.assert_allclose(made.score, seen, rtol=1e-6)


def test_at_the_start_sensitivity_says_nothing(double):
    """Why it needs warm steps: a delta of zero has no derivative along its gate. An adapter's is not quite zero."""
    gates = candidate_gates(positions(double.backbone.model), PRESETS["S3PET-M"])[0]
    pets = insert(double.backbone.model, gates)
    double.backbone.model.eval()
    try:
        parts = row_losses(double, pets, double.splits.train, 8)
        found = gate_gradients(parts, torch.ones(len(gates), dtype=torch.float64)).numpy()
    finally:
        pets.detach()
    zero = np.array([g.pet_type in ("LoRA", "BitFit", "LNFit") for g in gates])
    assert (found[zero] == 0).all()
    assert (found[~zero] != 0).all()
    warm = one_pass_scores(double, "sensitivity", warm_steps=3, **QUIET).score
    assert (warm > 1e-12 * warm.max()).all(), "the biases of the keys, which have nothing to learn, are left out"


def test_a_lora_is_scored_by_its_b_alone(double):
    """B = 0, so A has no gradient before training; after warm steps it has."""
    gates = candidate_gates(positions(double.backbone.model), Space("q", (SpaceEntry("LoRA", ("SelfAttn.Q",)),)))[0]
    rows = row_gradients(double, gates)
    starts = np.concatenate([[0], np.cumsum([g.n_params for g in gates])[:-1]])
    width = gates[0].n_params - 32  # A is (1, in), B is (out, 1)
    assert width == 32
    assert all((rows[:, s : s + width] == 0).all() for s in starts)
    assert all((rows[:, s + width : s + 64] != 0).any() for s in starts)


# -- what a measurement leaves behind, and on what it depends -------------------------------------------


@pytest.mark.parametrize("form", ["bert", "t5"])
@pytest.mark.parametrize("kind", ONE_PASS)
def test_the_backbone_is_left_as_it_was_found(form, kind):
    wb = bench(form)
    model = wb.backbone.model
    model.train()
    next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).eval()
    before = snapshot(model)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    made = one_pass_scores(wb, kind, **{"rows": 16, "warm_steps": 3, **QUIET, **LAYERS.get(kind, {})})
    assert made.kind == kind
    assert made.score.shape == (len(made.gates),)
    assert made.score.dtype == np.float64
    assert (made.score >= 0).all()
    assert_same(model, before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ONE_PASS)
def test_a_seed_decides_everything(bert, kind):
    options = {"rows": 20, "warm_steps": 4, "config": TuneConfig(**FAST), **QUIET, **LAYERS.get(kind, {})}
    first = one_pass_scores(bert, kind, seed=1, **options)
    torch.manual_seed(99)
    again, other = (one_pass_scores(bert, kind, seed=seed, **options) for seed in (1, 2))
    assert (first.score == again.score).all()
    assert (first.score != other.score).any()
    assert first.seed == 1
    if kind in LAYERS:
        return
    slower = one_pass_scores(bert, kind, seed=1, **{**options, "config": TuneConfig(**{**FAST, "lr": 1e-4})})
    assert (first.score != slower.score).any()  # the warm steps train as they are told


def test_dropout_is_off_when_scores_are_taken():
    wet = bench("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    dry = bench("bert")
    one, other = (one_pass_scores(wb, "gradient", rows=16, **QUIET).score for wb in (wet, dry))
    assert (one == other).all()
    one, other = (one_pass_scores(wb, "gradient", rows=16, warm_steps=2, **QUIET).score for wb in (wet, dry))
    assert (one != other).any()  # but on in the warm steps


def test_what_is_left_after_a_loss_that_is_not_finite():
    wb = bench("t5")
    before = snapshot(wb.backbone.model)
    with pytest.raises(NonFiniteLossError, match=r"sensitivity scores on mood: warm-up: step \d+: train loss is"):
        one_pass_scores(wb, "sensitivity", rows=4, config=TuneConfig(lr=1e30, clip=0), **QUIET)
    assert_same(wb.backbone.model, before)
    with torch.no_grad():
        wb.backbone.model.shared.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"gradient scores on mood: the score of .* is not finite"):
        one_pass_scores(wb, "gradient", rows=4, **QUIET)
    assert not any(m._forward_hooks for m in wb.backbone.model.modules())


# -- tables and structures -----------------------------------------------------------------------------


def fake(score, sizes, kind="gradient") -> OnePassScores:
    gates = tuple(Gate(i, f"block.{i}.q", "encoder", i, "SelfAttn.Q", "LoRA", n) for i, n in enumerate(sizes))
    return OnePassScores(
        kind=kind, gates=gates, score=np.array(score, float), rows=8, warm_steps=0, steps=1, seconds=0.5, seed=4,
        task="mood", backbone="tiny", backbone_params=1000,
    )  # fmt: skip


def test_the_table_and_both_orders():
    made = fake([6, 9, 6, 0], [2, 9, 3, 1])
    table = made.table()
    assert list(table.columns) == [
        "gate", "position", "stack", "layer", "module", "pet_type", "n_params", "score", "per_param", "rank",
        "rank_per_param",
    ]  # fmt: skip
    assert table.per_param.tolist() == [3, 1, 2, 0]
    assert table["rank"].tolist() == [2, 1, 3, 4]  # of equals, the lower index first
    assert table.rank_per_param.tolist() == [1, 3, 2, 4]
    assert [g.index for g in made.structure(9).gates] == [1]
    assert [g.index for g in made.structure(9, "param").gates] == [0, 2, 3]
    assert [g.index for g in made.structure(11).gates] == [0, 1]
    assert [g.index for g in made.structure("0.3%", per="param").gates] == [0, 3]
    one = made.structure(9, "param")
    assert (one.backbone, one.backbone_params, one.budget) == ("tiny", 1000, 9)
    assert one.source == {
        "baseline": "gradient/param", "seed": 4, "task": "mood", "rows": 8, "warm_steps": 0, "steps": 1, "seconds": 0.5,
    }  # fmt: skip
    assert made.structure(9).source["baseline"] == "gradient"
    with pytest.raises(ConfigError, match="per: expected 'gate' or 'param', found 'both'"):
        made.structure(9, "both")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="smallest module"):
        fake([1, 2], [3, 4]).structure(2)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.002, 0.999), per=st.sampled_from(["gate", "param"]))
def test_the_budget_is_kept_and_used(scored, share, per):
    sizes = [g.n_params for g in scored.gates]
    budget = max(min(sizes), int(share * sum(sizes)))
    made = scored.structure(budget, per)
    assert 0 < made.n_params <= budget
    left = [g.n_params for g in scored.gates if g.key not in made.keys]
    assert made.n_params + min(left) > budget  # nothing more would fit
    best = scored.table().sort_values("rank" if per == "gate" else "rank_per_param").index
    first = next(i for i in best if sizes[i] <= budget)
    assert scored.gates[first].key in made.keys


@pytest.mark.parametrize("name", ONE_PASS_METHODS)
def test_a_method_by_name(bert, name):
    kind, _, per = name.partition("/")
    options = {"rows": 16, "warm_steps": 2, "space": "S3PET-M", **QUIET, **LAYERS.get(kind, {})}
    made = one_pass_structure(bert, name, budget=400, seed=2, **options)
    scores = one_pass_scores(bert, kind, seed=2, **options)
    assert made == scores.structure(400, per or "gate")
    assert {k: made.source[k] for k in ("baseline", "seed", "task", "rows", "warm_steps")} == {
        "baseline": name, "seed": 2, "task": "mood", "rows": 16, "warm_steps": options["warm_steps"],
    }  # fmt: skip
    assert made.backbone_params == bert.backbone.n_params
    assert 0 < made.n_params <= 400


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("magnitude", {}, ConfigError, "method: expected one of gradient, gradient/param, fisher, .*, found 'magnitude'"),
        ("gradient/gate", {}, ConfigError, "found 'gradient/gate'"),
        ("gradient", {"budget": 5}, BudgetError, "smallest module"),
        ("gradient", {"budget": "0%"}, BudgetError, "above zero"),
        ("gradient", {"space": "S3PET-Z"}, SpaceError, "S3PET-Z"),
        ("gradient", {"rows": 0}, ConfigError, "rows: expected a whole number of at least 1, found 0"),
        ("fisher", {"batch_size": 0}, ConfigError, "batch_size: expected a whole number of at least 1, found 0"),
        ("fisher", {"warm_steps": -1}, ConfigError, "warm_steps: expected a whole number of at least 0, found -1"),
        ("gora", {}, SpaceError, "method 'gora' scores linear layers: expected LoRA alone, found BitFit, LNFit, LowRankAdapter; take"),
        ("plop", {"space": "S3PET-L", "warm_steps": 2}, ConfigError, "warm_steps: expected 0 for 'plop', .* found 2"),
        ("gora/param", {"space": "S3PET-L"}, ConfigError, "found 'gora/param'"),
        ("sensitivity/param", {"warm_steps": 0}, ConfigError, "warm_steps: expected at least 1 for 'sensitivity', found 0"),
    ],
)
def test_a_method_that_cannot_be_is_refused_before_it_is_scored(bert, monkeypatch, name, options, error, says):
    monkeypatch.setattr("s3pet_viz.tuning.one_pass.insert", lambda *a, **k: pytest.fail("it started"))
    with pytest.raises(error, match=says):
        one_pass_structure(bert, name, **{"budget": 400, **QUIET, **options})


def test_scores_of_a_kind_that_is_not_there(bert):
    with pytest.raises(ConfigError, match="method: expected one of gradient, fisher, sensitivity, gora, plop, .*found 'gradient/param'"):
        one_pass_scores(bert, "gradient/param")


def test_gates_of_another_backbone(bert):
    with pytest.raises(StructureError, match="no position"):
        score_gates(bert, "gradient", structure_for("t5").gates, **QUIET)


# -- among the baselines -------------------------------------------------------------------------------


def test_one_pass_methods_among_the_baselines(bert, monkeypatch):
    asked, trained = [], []
    score, run = score_gates, Workbench.run

    def spy(wb, kind, gates, **options):
        asked.append((kind, options["seed"], options["config"].seed, options["config"].lr))
        return score(wb, kind, gates, **options)

    def train(wb, method, config, **options):
        trained.append((options["label"], config.seed, method))
        return run(wb, method, config, **options)

    monkeypatch.setattr(one_pass, "score_gates", spy)
    monkeypatch.setattr(Workbench, "run", train)
    methods = ["gradient", "random", "gradient/param", "sensitivity"]
    table = baselines(
        workbench=bert, budget=200, space=BIASES, seeds=[4, 9], n_random=1, methods=methods, progress=False, **FAST
    )
    assert list(table.method) == [m for m in methods for _ in range(2)]
    assert list(table.seed) == [4, 9] * 4
    assert (table.structure == 0).all()
    assert (table.pet_params <= 200).all()
    # once per seed and kind, with that seed, as the tuning is told to train
    assert asked == [("gradient", s, s, FAST["lr"]) for s in (4, 9)] + [("sensitivity", s, s, FAST["lr"]) for s in (4, 9)]
    for name, seed, method in trained:
        assert method.source["baseline"] == name
        if name != "random":
            assert method.source["seed"] == seed
            again = one_pass_structure(bert, name, budget=200, space=BIASES, seed=seed, config=TuneConfig(**FAST), **QUIET)
            assert method == again


def test_unknown_names_list_the_one_pass_methods_too(bert):
    said = []
    with pytest.raises(ConfigError, match="methods: expected names among .*fisher/param, .*sensitivity.*, found 'Prompt'"):
        baselines(workbench=bert, methods=["gradient", "Prompt"], on_scores=said.append, **QUIET)
    with pytest.raises(BudgetError, match="smallest module"):
        baselines(workbench=bert, methods=["full", "fisher"], budget=5, on_scores=said.append, **QUIET)
    assert not said


def test_one_pass_methods_are_asked_for(bert):
    """They are no default: a table of baselines stays what it was."""
    assert not set(DEFAULT_BASELINES) & set(ONE_PASS_METHODS)
    help_text = " ".join(CliRunner().invoke(app, ["baselines", "--help"]).output.split())
    for name in ONE_PASS_METHODS:
        assert name in help_text


def test_one_pass_methods_on_the_command_line(tiny_folder, tmp_path):
    for split, rows in mood_data(40, 10).items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "task.json").write_text(json.dumps(MOOD))
    out = tmp_path / "table.csv"
    arguments = [
        "baselines", "--task", tmp_path, "--backbone", tiny_folder("t5"), "--budget", 600, "--steps", 2, "--seeds", 1,
        "--n-random", 1, "--methods", "gradient,random", "--out", out, "--device", "cpu", "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    with out.open() as f:
        rows = list(csv.DictReader(f))
    assert [r["method"] for r in rows] == ["gradient", "random"]
    assert all(0 < int(r["pet_params"]) <= 600 for r in rows)
