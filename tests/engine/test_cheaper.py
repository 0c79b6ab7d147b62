"""Options that make a search cheaper: what they leave as it was, and what they change."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from search_problems import random_batches, t5_state, tiny_t5

from s3pet_viz.engine import SearchConfig
from s3pet_viz.engine import attached as place
from s3pet_viz.engine.attached import checkpoint_layers
from s3pet_viz.engine.modes import MODES, fast_step, first_order_step
from s3pet_viz.engine.state import TRAIN_MASKS
from s3pet_viz.errors import ConfigError


def moved(steps=3, mode="fast", **options):
    state = t5_state(second_order_from=0, **options)
    for step in range(steps):
        result = MODES[mode](state, step)
    return state, result


@pytest.mark.parametrize("mode", ["fast", "paper", "first-order"])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(mode, parts):
    whole, one = moved(mode=mode)
    cut, other = moved(mode=mode, accumulation=parts)
    torch.testing.assert_close(other.alpha_grad, one.alpha_grad, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(cut.alpha, whole.alpha, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(cut.w.flat, whole.w.flat, rtol=1e-7, atol=1e-10)
    assert other.train_loss == pytest.approx(one.train_loss, rel=1e-12)


def test_parts_weigh_by_their_label_tokens():
    """Rows with fewer answer tokens weigh less, as in the mean over all of them."""
    batches = random_batches()

    def uneven(half, step):
        made = dict(batches(half, step))
        made["labels"] = made["labels"].clone()
        made["labels"][0, 1:] = -100
        return made

    one, two = t5_state(batch=uneven), t5_state(batch=uneven, accumulation=4)
    z = one.sample(0).z
    a, b = one.run("train", 0, z, TRAIN_MASKS), two.run("train", 0, z, TRAIN_MASKS)
    assert b.loss == pytest.approx(a.loss, rel=1e-12)
    torch.testing.assert_close(b.dw, a.dw, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_checkpointed_layers_change_nothing(rate):
    """Not even with dropout: the masks are drawn again. Gates have to be in place when layers run again."""
    states = []
    for checkpointing in (False, True):
        model = tiny_t5()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
        model.train()
        if checkpointing:
            checkpoint_layers(model)
        state = t5_state(model, second_order_from=0)
        for step in range(2):
            fast_step(state, step)
        states.append(state)
    torch.testing.assert_close(states[1].alpha, states[0].alpha, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(states[1].w.flat, states[0].w.flat, rtol=1e-9, atol=1e-12)


def test_skipped_gates_are_closed_and_have_no_gradient_of_their_own():
    state = t5_state(alpha=2.0)
    p = state.gates.sample(state.alpha, state.draw(0)).p
    threshold = float(p.detach().median())
    state.gates = replace(state.gates, skip_below=threshold, competition=False)
    sample = state.sample(0)
    below = (p < threshold).numpy()
    assert 0 < below.sum() < len(below)
    assert (sample.z.detach().numpy()[below] == 0).all()
    made = state.run("train", 0, sample.z, TRAIN_MASKS)
    assert state.problem.closed == set(below.nonzero()[0].tolist())
    # The same loss as with those gates computed and multiplied by 0.
    state.gates = replace(state.gates, skip_below=0.0)
    plain = state.run("train", 0, sample.z, TRAIN_MASKS)
    assert plain.loss == pytest.approx(made.loss, rel=1e-12)
    assert (made.dz.numpy()[below] == 0).all()
    torch.testing.assert_close(made.dz[~torch.from_numpy(below)], plain.dz[~torch.from_numpy(below)], rtol=1e-9, atol=1e-12)
    assert (sample.pull_back(made.dz).numpy()[below] == 0).all()


def test_h_in_every_third_step_counts_three_times():
    every, third = t5_state(second_order_from=0), t5_state(second_order_from=0, second_order_every=3)
    a, b = fast_step(every, 0), fast_step(third, 0)
    first = b.alpha_grad + 3 * every.lr * b.hessian
    torch.testing.assert_close(a.hessian, b.hessian)
    torch.testing.assert_close(first, a.alpha_grad + every.lr * a.hessian, rtol=1e-9, atol=1e-14)
    plain = t5_state(second_order_from=0, second_order_every=3)
    plain.alpha = third.alpha.clone()
    for step in (1, 2):
        assert fast_step(third, step).hessian is None
    assert fast_step(third, 3).hessian is not None
    # A step without H is a first-order step, to the last digit.
    one, other = t5_state(second_order_from=0, second_order_every=2), t5_state()
    assert torch.equal(fast_step(one, 1).alpha_grad, first_order_step(other, 1).alpha_grad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accumulation": 0}, "accumulation: expected a whole number of at least 1, found 0"),
        ({"second_order_every": 0}, "second_order_every: expected a whole number of at least 1"),
        ({"skip_below": 1.0}, "skip_below: expected 0"),
        ({"gradient_checkpointing": True, "dropout": False}, "gradient_checkpointing: expected dropout on"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ConfigError, match=words):
        SearchConfig(task="sentiment", backbone="tiny-t5", budget="0.2%", **options)


def test_a_whole_search_with_all_of_them(go):
    run = go("cheap", accumulation=2, gradient_checkpointing=True, skip_below=1e-3, second_order_every=2, steps=4)
    assert run.status == "finished"
    assert run.structure().n_params <= run.info["budget"]


def test_an_insertion_that_fails_leaves_the_backbone_as_it_was(monkeypatch):
    model = tiny_t5(dropout=0.1).eval()
    backbone = SimpleNamespace(model=model, head={})
    before = [sorted(vars(m)) for m in model.modules()]

    def broken(*_, **__):
        raise RuntimeError("no such place")

    monkeypatch.setattr(place, "insert", broken)
    with (
        pytest.raises(RuntimeError, match="no such place"),
        place.attached(backbone, [], SearchConfig("mood", "tiny", 9)),
    ):
        pass
    assert [sorted(vars(m)) for m in model.modules()] == before
    assert not any(m.training for m in model.modules())
