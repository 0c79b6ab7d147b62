"""steps="auto": validation decides when a training ends."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from problems import assert_same, snapshot
from tuning_problems import FAST, bench, run, structure_for
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app
from s3pet_viz.cli._output import steps_said
from s3pet_viz.config.options import config_of
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError
from s3pet_viz.pet import PRESETS, insert
from s3pet_viz.tasks import load_task
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.fit import train
from s3pet_viz.training.stopping import AutoSteps, stopping

AUTO = {"steps": "auto", "max_steps": 40, "evaluations": 20, "patience": 3}


def played(plan, losses):
    """Rates of all steps when the held-out loss after each look is what is said: (rates, looks)."""
    rates, looks, said = [], [], iter(losses)
    while (rate := plan.rate(len(rates))) is not None:
        rates.append(rate)
        if plan.looks(len(rates)):
            looks.append(len(rates))
            plan.see(len(rates), next(said))
    return rates, looks


# -- the plan --------------------------------------------------------------------------------------------


def test_patience_ends_the_full_rate_and_a_fifth_of_all_steps_decays():
    plan = AutoSteps(100, 20, 2)  # looks every 5 steps
    rates, looks = played(plan, [5.0, 4.0, 4.5, 4.2, *[3.0] * 9])
    assert rates[:20] == [1.0] * 20
    assert rates[20:] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert looks == [5, 10, 15, 20, 25]
    assert not plan.cap_reached


def test_the_cap_leaves_room_for_the_decay():
    plan = AutoSteps(100, 20, 3)
    rates, looks = played(plan, [9 - 0.1 * k for k in range(99)])
    assert len(rates) == 100
    assert rates[:81] == [1.0] * 81
    assert rates[-1] == pytest.approx(1 / 20)
    assert looks[-1] == 100
    assert plan.cap_reached


@pytest.mark.parametrize(("losses", "reached"), [([*range(90, 75, -1), 76, 76, 76], False), (range(90, 10, -1), True)])
def test_patience_that_ends_with_the_cap_is_patience(losses, reached):
    plan = AutoSteps(100, 20, 1)
    played(plan, [*losses, *[1.0] * 9])
    assert plan.cap_reached is reached


def test_a_loss_that_hardly_falls_does_not_keep_training_up():
    plan = AutoSteps(1000, 100, 4, constant_loss=0.4)  # a gain is 0.002 or more
    rates, _ = played(plan, [0.3 - 0.001 * min(k, 3) - 1e-5 * k for k in range(100)])
    assert len(rates) == 70 + 18  # the third look is such a gain, the first and second together


@pytest.mark.parametrize(("plateau", "reached"), [(10, False), (99, True)])
def test_a_task_that_is_not_learned_yet_is_not_given_up(plateau, reached):
    plan = AutoSteps(1000, 100, 4, constant_loss=0.7)
    rates, _ = played(plan, [0.71 if k < plateau else 0.1 for k in range(120)])
    # The first look below 95 % of 0.7 is the eleventh; four more are not lower, then a fifth of all steps.
    assert (len(rates), plan.cap_reached) == ((1000, True) if reached else (150 + 38, False))


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_very_few_steps(most):
    plan = AutoSteps(most, 24, 6)
    rates, looks = played(plan, [1.0] * 9)
    assert len(rates) <= most
    assert all(0 < rate <= 1 for rate in rates)
    assert looks[-1] == len(rates)


def test_the_default_plan():
    plan = stopping(TuneConfig(steps="auto"))
    assert (plan.most, plan.every, plan.patience) == (1200, 50, 6)
    assert len(played(plan, [1.0] * 99)[0]) == 438  # a look that is the lowest, six that are not, a fifth of all steps


# -- training --------------------------------------------------------------------------------------------


def learned(form, **options):
    return run(bench(form), structure_for(form, PRESETS["S3PET-M"]), **{"batch_size": 16, **AUTO, **options})


def test_a_task_that_is_learned_ends_early():
    scores = learned("t5", max_steps=400, evaluations=40)
    assert scores.score >= 0.9
    assert scores.learned is True
    assert scores.steps == "auto"
    assert scores.best_step <= scores.steps_taken < 400
    assert scores.history[-1]["step"] == scores.steps_taken
    assert not scores.cap_reached


def test_what_cannot_move_goes_on_to_the_cap_and_says_that_nothing_was_learned():
    scores = learned("bert", lr=1e-12)
    assert (scores.steps_taken, scores.cap_reached, scores.learned) == (40, True, False)
    assert "NOT LEARNED" in repr(scores)


def test_the_cap_is_said():
    scores = learned("t5", max_steps=12, evaluations=6, lr=1e-3)
    assert (scores.steps_taken, scores.cap_reached) == (12, True)
    row = scores.row()
    assert (row["steps_taken"], row["cap_reached"]) == (12, True)
    assert json.loads(json.dumps(scores.to_dict()))["cap_reached"] is True


def test_the_lowest_held_out_loss_is_scored_and_saved():
    wb = bench("bert")
    pets = insert(wb.backbone.model, structure_for("bert").gates)
    weights = [*pets.parameters(), *wb.backbone.head.values()]
    config = TuneConfig(**{**FAST, **AUTO, "lr": 0.3})  # so high that the loss rises again
    result = train(wb.backbone, wb.splits, [(weights, config.lr)], config, wb.device, progress=False)
    losses = [h["loss"] for h in result.history]
    assert losses[-1] > min(losses)
    assert result.best_step == result.history[losses.index(min(losses))]["step"]
    assert all("score" not in h for h in result.history)  # the loss alone decides, and nothing is generated for it
    again = evaluate(wb.backbone, wb.splits.data.task, wb.splits.validation)
    assert again["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert again == pytest.approx(result.validation, rel=1e-5)
    assert evaluate(wb.backbone, wb.splits.data.task, wb.splits.test) == pytest.approx(result.test, rel=1e-5)


def test_the_decay_starts_from_the_best_weights(monkeypatch):
    wb, seen = bench("bert"), []
    script = iter([0.5, 0.4, *[0.9] * 30])

    def said(backbone, *_, metrics=True, **__):
        if metrics:
            return {"score": 0.1, "loss": 0.2}
        seen.append(backbone.head["classifier.weight"].clone())
        return {"loss": next(script)}

    monkeypatch.setattr("s3pet_viz.training.fit.evaluate", said)
    starts = []
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        starts.append((self.param_groups[0]["lr"], wb.backbone.head["classifier.weight"].clone()))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    scores = run(wb, "head", **AUTO)
    assert scores.best_step == 4
    assert scores.steps_taken == 10 + 2
    assert torch.equal(starts[10][1], seen[1])
    assert not torch.equal(starts[9][1], seen[1])
    assert [rate / FAST["lr"] for rate, _ in starts[9:]] == pytest.approx([1, 1, 0.5])


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_interrupted_and_again_is_bit_for_bit_the_same(form):
    wb, structure = bench(form), structure_for(form)
    config = TuneConfig(**{**FAST, **AUTO})
    before = snapshot(wb.backbone.model)
    first = wb.run(structure, config, progress=False)

    def stop(step, loss):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.run(structure, config, progress=False, on_step=stop)
    assert_same(wb.backbone.model, before)
    again, fresh = wb.run(structure, config, progress=False), bench(form).run(structure, config, progress=False)
    said = [{k: v for k, v in s.to_dict().items() if k != "seconds"} for s in (first, again, fresh)]
    assert said[0] == said[1] == said[2]


def test_fixed_steps_say_how_many_were_taken(bert):
    scores = run(bert, structure_for("bert"))
    assert (scores.steps, scores.steps_taken, scores.cap_reached) == (6, 6, False)
    untouched = run(bert, "untouched", **AUTO)
    assert (untouched.steps, untouched.steps_taken, untouched.cap_reached) == (0, 0, False)


# -- which rows decide -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "options", "words"),
    [
        (("train", "validation", "test"), {}, "the validation split, seed 0"),
        (("train", "validation"), {}, "a half of the validation split, seed 0"),
        (("train", "validation"), {"split": "holdout", "seed": 3}, "a part of the training split, seed 3"),
    ],
)
def test_the_rows_that_decide_are_not_scored(splits, options, words):
    rows = [{"text": f"word {i}", "label": i % 2} for i in range(90)]
    tables = {name: rows[k::3] for k, name in enumerate(splits)}
    spec = {"name": "t", "kind": "classification", "fields": ["text"], "label_names": ["a", "b"], "metrics": ["accuracy"]}
    data = load_task(tables, form="text", task_spec=spec, **options)
    assert data.deciding == words
    sides = [{example.source for example in part} for part in (data.train, data.validation, data.test)]
    assert len(set.union(*sides)) == sum(map(len, sides))


def test_the_result_says_which_rows_decided(bert):
    scores = run(bert, structure_for("bert"), **AUTO)
    assert scores.decided_on == f"{len(bert.splits.validation)} rows: the validation split, seed 0"


# -- what is refused, and the commands ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": "soon"}, "steps: expected auto or a whole number of at least 1, found 'soon'"),
        ({"steps": 0}, "steps: expected auto or a whole number of at least 1, found 0"),
        ({"steps": 2.5}, "steps: expected auto or a whole number of at least 1, found 2.5"),
        ({"steps": None}, "steps: expected auto or a whole number of at least 1, found None"),
        ({"steps": 2**60}, "steps: expected at most 2^53"),
        ({"steps": "auto", "max_steps": 0}, "max_steps: expected a whole number of at least 1, found 0"),
        ({"steps": "auto", "max_steps": "auto"}, "max_steps: expected a whole number of at least 1, found 'auto'"),
        ({"steps": "auto", "patience": 0}, "patience: expected a whole number of at least 1, found 0"),
        ({"steps": "auto", "evaluations": 6}, "patience: expected fewer than the 6 evaluations, found 6"),
        ({"steps": "auto", "patience": 24}, "patience: expected fewer than the 24 evaluations, found 24"),
    ],
)
def test_bad_values(options, words):
    with pytest.raises(ConfigError) as error:
        config_of(TuneConfig, options)
    assert words in str(error.value)


def test_what_is_given_as_text():
    assert TuneConfig(steps="12").steps == 12  # as the command line gives it
    assert (TuneConfig().looks, TuneConfig(steps="auto").looks, TuneConfig(steps="auto", evaluations=9).looks) == (5, 24, 9)


def call(*words):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


def test_the_command_ends_with_how_training_ended(tmp_path):
    out = tmp_path / "scores.json"
    result = call(
        "tune", "full", "--task", "sentiment", "--backbone", "tiny-t5", "--max-rows", 16, "--steps", "auto", "--max-steps", 4,
        "--patience", 1, "--full-lr", 1e-12, "--batch-size", 4, "--quiet", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 steps: the cap was reached and the task is NOT LEARNED" in result.output.strip().splitlines()[-1]
    scores = json.loads(out.read_text())
    assert (scores["steps"], scores["steps_taken"], scores["cap_reached"], scores["learned"]) == ("auto", 4, True, False)
    assert "16 rows: the validation split" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("cap", "known", "end"),
    [
        (True, True, "the cap was reached while the held-out loss still fell"),
        (True, None, "the cap was reached while the held-out loss still fell"),
        (True, False, "the cap was reached and the task is NOT LEARNED"),
        (False, True, "the held-out loss fell no further, the cap was not reached"),
    ],
)
def test_how_a_training_ended_in_words(cap, known, end):
    assert end in steps_said(SimpleNamespace(steps_taken=40, cap_reached=cap, learned=known))


@pytest.mark.parametrize("wrong", ["soon", "0", "-3"])
@pytest.mark.parametrize("command", ["tune", "explain"])
def test_the_command_refuses(command, wrong):
    words = ("full", "--task", "sentiment") if command == "tune" else ("similarity-0.2pct-s0",)
    result = call(command, *words, "--steps", wrong)
    assert result.exit_code == 2
    assert "steps: expected auto or a whole number of at least 1" in result.output


def test_explain_says_the_steps_that_were_taken():
    options = {"steps": "auto", "max_steps": 3, "evaluations": 3, "patience": 1, "load": {"max_rows": 16}, "progress": False}
    made = s3.explain("similarity-0.2pct-s0", metric=False, device="cpu", batch_size=4, **options)
    assert made.steps in (2, 3)


@pytest.mark.usefixtures("studies_in_threads")
def test_baselines_and_studies_take_auto(tmp_path, tiny_folder):
    auto = {"max_steps": 4, "evaluations": 4, "patience": 1, "batch_size": 4, "load": {"max_rows": 16}, "device": "cpu"}
    shared = {"backbone": str(tiny_folder("bert")), "progress": False, **auto}
    table = s3.baselines(task="sentiment", methods=["LNFit", "untouched"], seeds=1, steps="auto", **shared)
    assert list(table["steps_taken"] > 0) == [True, False]
    more = {"tasks": ["sentiment"], "methods": ["LNFit"], "seeds": 1, "workers": 1, "out": tmp_path / "s"} | {
        "tune_steps": "auto", "budgets": ["2%"],
    }
    study = s3.sweep(**more, **shared)
    (row,) = study.table().to_dict("records")
    assert 1 <= row["steps_taken"] <= 4
    assert row["cap_reached"] in (True, False)
    journal = (tmp_path / "s" / "journal.jsonl").read_text()
    assert s3.sweep(**more, **shared).status()["done"] == 1  # goes on, and finds it done
    assert (tmp_path / "s" / "journal.jsonl").read_text() == journal
    with pytest.raises(ConfigError, match="tune_steps: expected auto or a whole number of at least 1, found 'soon'"):
        s3.sweep(**{**more, "tune_steps": "soon"}, **shared)
