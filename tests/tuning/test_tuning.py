"""Training and scoring one structure, and the baselines, on a task that tiny random models can learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from problems import LABELS, MOOD, STRENGTH, assert_same, mood_data, snapshot, tiny_model, tokenizer_of

from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.errors import BackboneError, BudgetError, ConfigError, NonFiniteLossError, StructureError
from s3pet_viz.pet import PRESETS, Space, SpaceEntry, candidate_gates, insert
from s3pet_viz.structure import Structure
from s3pet_viz.tuning import TuneConfig, Workbench, baselines, summary, tune
from s3pet_viz.tuning.baselines import MANUAL, manual_structure, random_structure
from s3pet_viz.tuning.data import Features
from s3pet_viz.tuning.device import Device
from s3pet_viz.tuning.evaluate import evaluate
from s3pet_viz.tuning.train import Splits, train

BIASES = Space("biases", (SpaceEntry("LoRA", ("SelfAttn.Q", "SelfAttn.V")), SpaceEntry("BitFit", ("*.LN", "FFN.W2"))))
FAST = {"steps": 6, "batch_size": 8, "evaluations": 2, "lr": 1e-2}


def bench(form: str, **changes) -> Workbench:
    model = tiny_model(form, **changes)
    return Workbench.open(mood_data(), model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu")


def structure_for(form: str, space: Space = BIASES) -> Structure:
    return Structure(tuple(candidate_gates(positions(tiny_model(form)), space)[0]), form, 1)


def run(wb: Workbench, method, **options):
    return wb.run(method, TuneConfig(**{**FAST, **options}), progress=False)


@pytest.fixture(scope="module")
def bert() -> Workbench:
    return bench("bert")


@pytest.fixture(scope="module")
def t5() -> Workbench:
    return bench("t5")


# -- learning ------------------------------------------------------------------------------------------


def test_a_structure_learns_by_generation(t5):
    untouched = run(t5, "untouched")
    assert untouched.score == 0  # random words are no label
    scores = run(t5, structure_for("t5", PRESETS["S3PET-M"]), steps=50, batch_size=16)
    assert scores.score >= 0.9
    assert scores.metrics["loss"] < untouched.metrics["loss"] / 4
    assert scores.pet_params == structure_for("t5", PRESETS["S3PET-M"]).n_params
    assert (scores.head_params, scores.pooler) == (0, "")


@pytest.mark.parametrize("form", ["bert", "roberta"])
def test_full_fine_tuning_learns_by_the_head(form):
    scores = run(bench(form), "full", steps=60, batch_size=16, full_lr=5e-3)
    assert scores.score >= 0.9
    assert scores.n_gates == 0


def test_a_structure_learns_by_the_head(bert):
    scores = run(bert, structure_for("bert"), steps=60, batch_size=16, lr=5e-2)
    assert scores.score >= 0.8


# -- nothing stays behind ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
@pytest.mark.parametrize("method", ["structure", "head", "full", "untouched"])
def test_the_backbone_and_its_head_stay_bit_identical(form, method):
    wb = bench(form)
    if method == "head" and form in ("t5", "gated"):
        with pytest.raises(ConfigError, match="needs an encoder"):
            run(wb, "head")
        return
    before = snapshot(wb.backbone.model)
    what = structure_for(form) if method == "structure" else method
    torch.manual_seed(1)
    state = torch.get_rng_state()
    seen = []
    wb.run(what, TuneConfig(**FAST, train_pooler=True), progress=False, on_step=lambda *a: seen.append(a))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(wb.backbone.model, before)
    assert [s for s, _ in seen] == ([] if method == "untouched" else list(range(6)))
    model = wb.backbone.model
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())
    assert not model.training


def test_full_moves_every_weight_and_then_puts_it_back(bert):
    before = snapshot(bert.backbone.model)
    moved = {}

    def look(step, loss):
        moved.update({k: not torch.equal(v, before[k]) for k, v in bert.backbone.model.state_dict().items()})

    bert.run("full", TuneConfig(**FAST), progress=False, on_step=look)
    assert all(moved.values()), [k for k, v in moved.items() if not v]
    assert_same(bert.backbone.model, before)


def test_a_structure_moves_only_its_gates_and_the_head(bert):
    before = snapshot(bert.backbone.model)
    moved = set()

    def look(step, loss):
        moved.update(k for k, v in bert.backbone.model.state_dict().items() if not torch.equal(v, before[k]))

    bert.run(structure_for("bert"), TuneConfig(**FAST), progress=False, on_step=look)
    assert moved == {"classifier.weight", "classifier.bias"}
    moved.clear()
    bert.run("head", TuneConfig(**FAST, train_pooler=True), progress=False, on_step=look)
    assert moved == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    moved.clear()
    bert.run("untouched", TuneConfig(**FAST), progress=False, on_step=look)
    assert not moved


@pytest.mark.parametrize("method", ["structure", "full"])
def test_an_error_leaves_everything_as_it_was(bert, method):
    before = snapshot(bert.backbone.model)
    what = structure_for("bert") if method == "structure" else method

    def stop(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bert.run(what, TuneConfig(**FAST), progress=False, on_step=stop)
    assert_same(bert.backbone.model, before)
    assert all(not m._forward_hooks for m in bert.backbone.model.modules())
    assert not any(p.requires_grad for p in bert.backbone.model.parameters())


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_a_loss_that_is_not_finite(form):
    wb = bench(form)
    before = snapshot(wb.backbone.model)
    with pytest.raises(NonFiniteLossError, match=r"^mine on mood: step \d+: train loss is (nan|inf)"):
        wb.run("full", TuneConfig(**{**FAST, "full_lr": 1e30}), label="mine", progress=False)
    assert_same(wb.backbone.model, before)


def test_an_evaluation_that_is_not_finite(bert):
    wb = bench("bert")
    with torch.no_grad():
        wb.backbone.head["classifier.bias"].fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="evaluation of mood: loss is nan"):
        run(wb, "untouched")


# -- the best weights ----------------------------------------------------------------------------------


def trained(wb: Workbench, **options):
    """`train` itself on a structure, with its weights left in place."""
    pets = insert(wb.backbone.model, structure_for(wb.backbone.family.name).gates)
    config = TuneConfig(**{**FAST, **options})
    weights = [*pets.parameters(), *wb.backbone.head.values()]
    return train(wb.backbone, wb.splits, [(weights, config.lr)], config, wb.device, progress=False)


def test_the_best_weights_are_restored():
    wb = bench("bert")
    result = trained(wb, steps=24, batch_size=16, evaluations=12, lr=0.05)
    ranks = [(h["score"], -h["loss"]) for h in result.history]
    assert [h["step"] for h in result.history] == list(range(2, 25, 2))
    assert result.best_step == result.history[ranks.index(max(ranks))]["step"]
    task = wb.splits.data.task
    again = evaluate(wb.backbone, task, wb.splits.validation)
    assert (again["score"], again["loss"]) == pytest.approx((max(ranks)[0], -max(ranks)[1]), rel=1e-5)
    assert again["score"] == result.validation["score"]
    assert evaluate(wb.backbone, task, wb.splits.test)["loss"] == pytest.approx(result.test["loss"], rel=1e-5)
    assert result.test["loss"] != pytest.approx(result.validation["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("said", "best"),
    [
        ([(0.1, 9.0), (0.7, 1.0), (0.6, 0.5), (0.2, 0.1)], 1),  # the score decides, not the loss
        ([(0.5, 1.0), (0.5, 0.8), (0.5, 0.9), (0.5, 0.8)], 1),  # then the loss, then the earlier
        ([(-0.2, 1.0), (-0.1, 1.0), (-0.3, 1.0), (-0.4, 1.0)], 1),  # correlations can be negative
        ([(0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0)], 0),
        ([(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0)], 3),
    ],
)
def test_which_weights_are_the_best(monkeypatch, said, best):
    wb = bench("bert")
    script, seen = iter([*said, (0.33, 0.44)]), []

    def evaluate(backbone, *_, **__):
        seen.append(backbone.head["classifier.weight"].clone())
        score, loss = next(script)
        return {"score": score, "loss": loss}

    monkeypatch.setattr("s3pet_viz.tuning.train.evaluate", evaluate)
    result = trained(wb, steps=8, evaluations=4)
    assert result.best_step == 2 * (best + 1)
    assert (result.validation["score"], result.validation["loss"]) == said[best]
    assert result.test == {"score": 0.33, "loss": 0.44}
    assert torch.equal(seen[-1], seen[best])  # the held-out split was scored with the best weights
    assert all(not torch.equal(seen[best], w) for i, w in enumerate(seen[:-1]) if i != best)
    assert torch.equal(wb.backbone.head["classifier.weight"], seen[best])


def test_more_evaluations_than_steps():
    result = trained(bench("bert"), steps=2, evaluations=50)
    assert [h["step"] for h in result.history] == [1, 2]


def test_the_learning_rate_decays_to_zero_and_gradients_are_clipped(monkeypatch):
    rates, norms = [], []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append([g["lr"] for g in self.param_groups])
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        assert all(g["betas"] == (0.9, 0.999) and g["weight_decay"] == 0 and g["eps"] == 1e-8 for g in self.param_groups)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(bench("bert"), structure_for("bert"), lr=0.1, head_lr=0.02, clip=1e-3)
    assert rates == [pytest.approx([0.1 * (1 - k / 6), 0.02 * (1 - k / 6)]) for k in range(6)]
    assert norms == [pytest.approx(1e-3, rel=1e-3)] * 6
    norms.clear()
    run(bench("bert"), structure_for("bert"), clip=0)
    assert max(norms) > 1e-2


def test_training_and_evaluating_use_the_right_modes(monkeypatch):
    wb = bench("bert", hidden_dropout_prob=0.5)
    modes = []
    forward = type(wb.backbone.model).forward

    def spy(self, *args, **kwargs):
        modes.append((self.training, torch.is_grad_enabled()))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(wb.backbone.model), "forward", spy)
    run(wb, "head", steps=2, evaluations=1, eval_batch_size=40)
    assert modes == [(True, True), (True, True), (False, False), (False, False)]


# -- seeds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_the_same_seed_gives_the_same_scores(form):
    rate = {"hidden_dropout_prob": 0.1} if form == "bert" else {"dropout_rate": 0.1}
    wb = bench(form, **rate)
    structure = structure_for(form)
    first = run(wb, structure, seed=3)
    torch.manual_seed(99)
    second = run(wb, structure, seed=3)
    other = run(wb, structure, seed=4)
    untimed = [{k: v for k, v in s.to_dict().items() if k != "seconds"} for s in (first, second)]
    assert untimed[0] == untimed[1]
    assert other.history[0]["train_loss"] != first.history[0]["train_loss"]
    assert run(bench(form, **rate), structure, seed=3).history == first.history  # nor does a fresh start differ


def test_every_run_starts_from_a_fresh_head():
    wb = bench("roberta")
    own = snapshot(wb.backbone.model)["classifier.dense.weight"]
    starts = []
    for seed in (0, 0, 1):
        # A rate so small that the head after a step is the head before it, to rounding.
        config = TuneConfig(steps=1, evaluations=1, batch_size=8, lr=1e-12, seed=seed)
        wb.run("head", config, progress=False, on_step=lambda *_: starts.append(snapshot(wb.backbone.model)))
    first, again, other = (s["classifier.dense.weight"] for s in starts)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first, own, atol=1e-3)
    assert first.std() == pytest.approx(0.02, rel=0.1)  # as transformers would draw it
    assert starts[0]["classifier.dense.bias"].abs().max() < 1e-9


def test_what_is_untouched_keeps_its_own_head():
    """A head in memory may be one that was trained."""
    wb = bench("bert")
    with torch.no_grad():
        wb.backbone.head["classifier.bias"].copy_(torch.tensor([-5.0, 5.0]))
    test = wb.splits.test.batch(range(len(wb.splits.test)), "cpu")
    with torch.no_grad():
        expected = float(wb.backbone.model(**test).loss)
    assert expected > 2
    assert run(wb, "untouched").metrics["loss"] == pytest.approx(expected, rel=1e-5)


# -- what is counted -----------------------------------------------------------------------------------


def test_parameters_of_the_head_are_counted_apart(bert):
    d = 32
    classifier, pooler = 2 * d + 2, d * d + d
    structure = structure_for("bert")
    base = bert.backbone.n_params
    expected = {
        "structure": (structure, {}, structure.n_params, classifier, "frozen"),
        "pooler": (structure, {"train_pooler": True}, structure.n_params, classifier + pooler, "trained"),
        "head": ("head", {}, 0, classifier, "frozen"),
        "untouched": ("untouched", {}, 0, 0, "frozen"),
        "full": ("full", {"train_pooler": True}, base, classifier, "trained"),  # the pooler is in the backbone
    }
    for name, (method, options, pet, head, state) in expected.items():
        scores = run(bert, method, steps=1, evaluations=1, **options)
        assert (scores.pet_params, scores.head_params, scores.pooler) == (pet, head, state), name
        assert scores.backbone_params == base
        assert scores.fraction == pet / base
    roberta = run(bench("roberta"), "head", steps=1, evaluations=1)
    assert (roberta.head_params, roberta.pooler) == (d * d + d + classifier, "")


def test_a_row_and_a_repr(bert):
    scores = run(bert, structure_for("bert"), seed=5)
    row = scores.row()
    assert row["method"] == "structure"
    assert row["score"] == scores.metrics["accuracy"] == row["accuracy"]
    assert row["percent"] == 100 * scores.pet_params / bert.backbone.n_params
    assert row["validation"] == max(h["score"] for h in scores.history)
    assert row["seed"] == 5
    assert row["n_gates"] == len(structure_for("bert"))
    assert "+ 66 of the head" in repr(scores)
    json.dumps(scores.to_dict())


# -- evaluation ----------------------------------------------------------------------------------------


def answering(wb: Workbench, monkeypatch, texts):
    """A text-to-text backbone that says `texts` whatever it reads."""
    tokens = [wb.backbone.tokenizer(t)["input_ids"] for t in texts]
    longest = max(map(len, tokens))
    said = iter(torch.tensor([[0, *t, *[0] * (longest - len(t))] for t in tokens]))
    monkeypatch.setattr(
        wb.backbone.model, "generate", lambda input_ids, **_: torch.stack([next(said) for _ in input_ids])
    )


def test_an_unknown_label_text_counts_as_wrong(monkeypatch):
    wb = bench("t5")
    task = wb.splits.data.task
    examples = wb.splits.data.test[:6]
    right = [LABELS[int(e.label)] for e in examples]
    given = Features(examples, wb.backbone, task)
    order = np.concatenate(given.by_length(4)).tolist()
    for spoilt, text in ((0, "happy"), (2, ""), (5, f"{right[5]} {right[5]}")):
        texts = [*right]
        texts[spoilt] = text
        answering(wb, monkeypatch, [texts[i] for i in order])
        assert evaluate(wb.backbone, task, given, batch_size=4)["accuracy"] == pytest.approx(5 / 6)
    answering(wb, monkeypatch, [right[i] for i in order])
    assert evaluate(wb.backbone, task, given, batch_size=4)["score"] == 1


def test_text_to_text_backbones_are_scored_by_what_they_generate(t5):
    """Not by comparing label losses: an untrained one generates no label, so it gets no half right."""
    assert run(t5, "untouched").score == 0


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches(form):
    wb = bench(form)
    if form == "t5":
        spec = {**MOOD, "label_names": ["a very sad one", "positive"]}  # targets of unequal length
        wb = Workbench.open(mood_data(), model=tiny_model("t5"), tokenizer=tokenizer_of("t5"), task_spec=spec, device="cpu")
    task, test = wb.splits.data.task, wb.splits.test
    losses = [evaluate(wb.backbone, task, test, batch_size=b)["loss"] for b in (7, 40)]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5)
    if form == "bert":
        batch = test.batch(range(len(test)), "cpu")
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(wb.backbone.model(**batch).logits, batch["labels"])
        assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_head_is_read_in_the_order_of_the_examples(bert):
    """A head that knows a text by its length: batches by length must not shuffle the answers."""
    test, task = bert.splits.test, bert.splits.data.task
    with torch.no_grad():
        single = [int(bert.backbone.model(**test.batch([i], "cpu")).logits.argmax()) for i in range(len(test))]
    right = np.mean([s == e.label for s, e in zip(single, test.examples, strict=True)])
    assert evaluate(bert.backbone, task, test, batch_size=7)["accuracy"] == pytest.approx(right)


def test_regression():
    rows = {k: [{**r, "label": 0.5 + 3.0 * r["label"]} for r in v] for k, v in mood_data().items()}
    model = tiny_model("bert", num_labels=1)
    wb = Workbench.open(rows, model=model, tokenizer=tokenizer_of("bert"), task_spec=STRENGTH, device="cpu")
    scores = run(wb, "full", steps=40, batch_size=16, full_lr=5e-3)
    assert scores.metrics["pearson"] > 0.8
    assert set(scores.metrics) == {"pearson", "score", "loss"}


# -- structures ----------------------------------------------------------------------------------------


def test_random_structures(bert):
    gates = candidate_gates(positions(bert.backbone.model), PRESETS["S3PET-M"])[0]
    sizes = [g.n_params for g in gates]
    budget = 700
    made = [random_structure(gates, budget, bert.backbone, seed) for seed in range(8)]
    assert len(set(made)) == 8
    for s in made:
        assert s.n_params <= budget
        assert s.budget == budget
        left = min(size for size, g in zip(sizes, gates, strict=True) if g.key not in s.keys)
        assert s.n_params + left > budget  # nothing more would fit
        assert s.backbone_params == bert.backbone.n_params
    assert made[3] == random_structure(gates, budget, bert.backbone, 3)
    assert made[3].source == {"baseline": "random", "seed": 3}
    with pytest.raises(BudgetError, match="no module of the space fits 1 parameters"):
        random_structure(gates, 1, bert.backbone, 0)


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
def test_manual_structures_sit_where_they_usually_do(form):
    backbone = wrap_backbone(tiny_model(form), tokenizer_of(form))
    text = form in ("t5", "gated")
    linear = {"SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O", "FFN.W1", "FFN.W2"}
    linear |= {"CrossAttn.Q", "CrossAttn.K", "CrossAttn.V", "CrossAttn.O"} if text else set()
    linear |= {"FFN.W1.gate"} if form == "gated" else set()
    norms = {"SelfAttn.LN", "FFN.LN"} | ({"CrossAttn.LN", "Final.LN"} if text else {"Emb.LN"})
    blocks = {"SelfAttn", "FFN"}
    places = {
        "LoRA": {"SelfAttn.Q", "SelfAttn.V"}, "Adapter": blocks, "LowRankAdapter": blocks, "Compacter": blocks,
        "BitFit": linear | norms, "LNFit": norms,
    }  # fmt: skip
    assert set(places) == set(MANUAL)
    for name, modules in places.items():
        made = manual_structure(name, backbone)
        assert {g.module for g in made.gates} == modules, name
        assert {g.pet_type for g in made.gates} == {name}
        everywhere = [p for p in positions(backbone.model) if p.module in modules]
        assert len(made) == len(everywhere)
    with pytest.raises(ConfigError, match="found 'Prompt'"):
        manual_structure("Prompt", backbone)


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        ("fully", ConfigError, "expected a Structure or one of full, head, untouched, found 'fully'"),
        (Structure(()), StructureError, "at least one gate"),
        (structure_for("t5"), StructureError, "no position"),
    ],
)
def test_what_cannot_be_run(bert, method, error, says):
    before = snapshot(bert.backbone.model)
    with pytest.raises(error, match=says):
        run(bert, method)
    assert_same(bert.backbone.model, before)


# -- baselines -----------------------------------------------------------------------------------------


def test_the_table_of_baselines(bert):
    said = []
    table = baselines(
        workbench=bert, budget=700, seeds=[4, 9], n_random=2, progress=False, on_scores=said.append,
        structures={"searched": structure_for("bert")}, **FAST,
    )  # fmt: skip
    assert list(table.columns) == [
        "method", "task", "seed", "score", "loss", "validation", "pet_params", "percent", "head_params", "n_gates",
        "best_step", "seconds", "accuracy", "structure",
    ]  # fmt: skip
    counts = {
        "searched": 2, "untouched": 1, "head": 2, "LoRA": 2, "Adapter": 2, "LowRankAdapter": 2, "Compacter": 2,
        "BitFit": 2, "LNFit": 2, "random": 4, "full": 2,
    }  # fmt: skip
    assert table.groupby("method", sort=False).size().to_dict() == counts
    assert len(said) == len(table)
    random = table[table.method == "random"]
    assert [(w, s) for w, s in zip(random.structure, random.seed, strict=True)] == [(0, 4), (0, 9), (1, 4), (1, 9)]
    assert (random.pet_params <= 700).all()
    assert (random.pet_params > 0).all()
    assert set(table[table.method != "untouched"].seed) == {4, 9}
    assert set(table.head_params) == {0, 66}
    sizes = table.drop_duplicates("method").set_index("method").pet_params
    assert sizes["full"] == bert.backbone.n_params
    assert sizes["head"] == sizes["untouched"] == 0
    assert sizes["LoRA"] == 2 * 2 * 64
    assert sizes["LNFit"] == 5 * 32

    means = summary(table).set_index("method")
    assert list(means.index) == list(counts)
    assert means.runs.to_dict() == counts
    by_hand = table[table.method == "random"].score
    assert means.score["random"] == pytest.approx(by_hand.mean())
    assert means.spread["random"] == pytest.approx(by_hand.std())
    assert np.isnan(means.spread["untouched"])


def test_baselines_of_a_text_to_text_backbone(t5):
    options = {**FAST, "steps": 1, "evaluations": 1}
    with pytest.warns(UserWarning, match="'head' is left out"):
        table = baselines(workbench=t5, methods=["head", "LNFit", "LNFit"], seeds=1, progress=False, **options)
    assert list(table.method) == ["LNFit"]
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"methods": ["Prompt"]}, ConfigError, "methods: expected names among .*, found 'Prompt'"),
        ({"seeds": 0}, ConfigError, "seeds: expected at least one"),
        ({"seeds": []}, ConfigError, "seeds: expected at least one"),
        ({"budget": 5}, BudgetError, "smallest module"),
        ({"budget": "0%"}, BudgetError, "above zero"),
        ({"learning_rate": 1}, ConfigError, "unknown option 'learning_rate' .*lr, head_lr"),
        ({"steps": 0}, ConfigError, "steps: expected at least 1, found 0"),
    ],
)
def test_baselines_refuse_before_they_train(bert, options, error, says):
    said = []
    with pytest.raises(error, match=says):
        baselines(workbench=bert, on_scores=said.append, progress=False, **{"methods": ["full", "random"], **options})
    assert not said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"evaluations": 0}, "evaluations: expected at least 1"),
        ({"lr": 0}, "lr: expected a positive number"),
        ({"lr": math.nan}, "lr: expected a positive number"),
        ({"head_lr": -1}, "head_lr: expected a positive number"),
        ({"full_lr": math.inf}, "full_lr: expected a positive number"),
        ({"clip": -1}, "clip: expected 0"),
        ({"clip": math.nan}, "clip: expected 0"),
        ({"max_source_length": 0}, "max_source_length: expected at least 1"),
    ],
)
def test_options_that_cannot_be_used(options, says):
    with pytest.raises(ConfigError, match=says):
        TuneConfig(**options)


# -- device and precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "float32", ""])
def test_precisions_refused(precision):
    with pytest.raises(ConfigError, match=f"precision: expected one of fp32, bf16, found '{precision}'"):
        Device.choose("cpu", precision)


def test_devices():
    assert Device.choose("cpu").torch == torch.device("cpu")
    assert Device.choose("cpu").rng_devices == []
    with pytest.raises(ConfigError, match="device: 'abacus' cannot be used here"):
        Device.choose("abacus")
    if torch.cuda.is_available():
        pytest.skip("the rest needs a machine without CUDA")
    assert Device.choose("auto").torch.type in ("cpu", "mps")
    with pytest.raises(ConfigError, match="device: 'cuda' cannot be used here"):
        Device.choose("cuda")


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_bf16_on_the_cpu(form):
    model = tiny_model(form)
    wb = Workbench.open(
        mood_data(), model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu", precision="bf16"
    )
    losses = []
    for bench_ in (wb, bench(form)):
        run(bench_, structure_for(form, PRESETS["S3PET-M"]), **{"seed": 1})
        bench_.run("full", TuneConfig(**FAST), progress=False, on_step=lambda _, x: losses.append(x))
    low, high = losses[:6], losses[6:]
    assert low != high  # it was bf16
    assert low == pytest.approx(high, rel=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # the weights stay as they are


# -- tune ----------------------------------------------------------------------------------------------


def test_tune_from_memory_leaves_the_model_as_it_was():
    model, tokenizer = tiny_model("bert"), tokenizer_of("bert")
    model.train()
    model.bert.embeddings.requires_grad_(False)
    model.classifier.eval()
    before = snapshot(model)
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    data = {k: pd.DataFrame(v) for k, v in mood_data(40, 20).items()}
    scores = tune(
        structure_for("bert"), task=data, model=model, tokenizer=tokenizer, load={"task_spec": MOOD}, device="cpu",
        progress=False, **FAST,
    )  # fmt: skip
    assert scores.task == "mood"
    assert_same(model, before)
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes


def test_tune_from_a_folder_and_a_file(tiny_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    path = structure_for("bert").save(tmp_path / "structure.json")
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in mood_data(40, 20).items()})
    options = {"task": data, "backbone": tiny_folder("bert"), "load": {"task_spec": MOOD}, "device": "cpu", **FAST}
    for source in (path, str(path), structure_for("bert")):
        scores = tune(source, progress=False, **options)
        assert scores.method == "structure"
        assert scores.backbone == str(tiny_folder("bert"))
    assert tune("untouched", progress=False, label="mine", **options).method == "mine"
    with pytest.raises(StructureError, match="nowhere.json: cannot be read"):
        tune("nowhere.json", **options)


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_a_folder_gets_the_form_and_head_of_the_task(tiny_folder, form):
    names = ["negative", "positive", "neither"]
    wb = Workbench.open(mood_data(40, 20), tiny_folder(form), task_spec={**MOOD, "label_names": names}, device="cpu")
    assert wb.splits.data.form == wb.backbone.form
    if form == "bert":
        assert wb.backbone.head["classifier.weight"].shape == (3, 32)
    assert isinstance(wb.splits, Splits)


@pytest.mark.parametrize(
    ("changes", "spec"),
    [({"num_labels": 3}, MOOD), ({"num_labels": 1}, MOOD), ({"num_labels": 2}, STRENGTH),
     ({"num_labels": 2, "problem_type": "multi_label_classification"}, MOOD)],
)  # fmt: skip
def test_a_head_in_memory_has_to_be_for_the_task(changes, spec):
    with pytest.raises(BackboneError, match=r"expects a model with num_labels=\d for .*, found num_labels=\d"):
        tune(
            "head", task=mood_data(40, 20), model=tiny_model("bert", **changes), tokenizer=tokenizer_of("bert"),
            load={"task_spec": spec}, device="cpu",
        )  # fmt: skip


def test_either_a_name_or_a_model(tiny_folder):
    given = {"task": mood_data(40, 20), "load": {"task_spec": MOOD}}
    with pytest.raises(ConfigError, match="either backbone= .* or model="):
        tune("head", **given)
    with pytest.raises(ConfigError, match="either backbone= .* or model="):
        tune("head", backbone=tiny_folder("bert"), model=tiny_model("bert"), tokenizer=tokenizer_of("bert"), **given)
    with pytest.raises(BackboneError, match="tokenizer"):
        tune("head", model=tiny_model("bert"), **given)
