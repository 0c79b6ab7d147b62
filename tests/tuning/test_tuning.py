"""Training and scoring one structure on a task that tiny random models can learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from problems import LABELS, MOOD, STRENGTH, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from tuning_problems import FAST, bench, run, structure_for

from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError, NonFiniteLossError
from s3pet_viz.pet import PRESETS, insert
from s3pet_viz.training.batches import Features
from s3pet_viz.training.device import Device
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.fit import train
from s3pet_viz.tuning import Workbench

# -- learning ------------------------------------------------------------------------------------------


def test_a_structure_learns_by_generation():
    t5, structure = bench("t5", layers=2), structure_for("t5", PRESETS["S3PET-M"], layers=2)
    untouched = run(t5, "untouched")
    assert untouched.score == 0  # random words are no label
    scores = run(t5, structure, steps=50, batch_size=16)
    assert scores.score >= 0.9
    assert scores.metrics["loss"] < untouched.metrics["loss"] / 4
    assert scores.pet_params == structure.n_params
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
        with pytest.raises(ConfigError, match="needs a classification head"):
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
    assert all(p.requires_grad for p in model.parameters())  # as the caller's model was
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())
    assert model.training


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
    assert all(p.requires_grad for p in bert.backbone.model.parameters())


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

    monkeypatch.setattr("s3pet_viz.training.fit.evaluate", evaluate)
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
        spec = {**MOOD, "label_names": ["a slow sad cat", "positive"]}  # targets of unequal length
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


# -- device and precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "float32", ""])
def test_precisions_refused(precision):
    with pytest.raises(ConfigError, match=f"precision: expected one of fp32, bf16, found '{precision}'"):
        Device.choose("cpu", precision)


def test_devices():
    assert Device.choose("cpu").torch == torch.device("cpu")
    with pytest.raises(ConfigError, match="device: expected auto, cpu, .*, found 'abacus'"):
        Device.choose("abacus")
    if torch.cuda.is_available():
        pytest.skip("the rest needs a machine without CUDA")
    assert Device.choose("auto").torch.type in ("cpu", "mps")
    with pytest.raises(ConfigError, match="device: 'cuda' cannot be used here"):
        Device.choose("cuda")


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_bf16_on_the_cpu(form):
    model = tiny_model(form, layers=1)
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
