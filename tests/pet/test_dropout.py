"""Quick dropout masks: the right share, the right scale, the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from s3pet_viz.pet import dropout
from s3pet_viz.pet.dropout import attend, kept_masks, quick_dropout, quick_mask


@settings(max_examples=30, deadline=None)
@given(p=st.floats(0.01, 0.9), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_share_and_scale(p, dtype):
    torch.manual_seed(0)
    mask = quick_mask(torch.empty(300, 401, dtype=dtype), p).double()
    assert mask.dtype == torch.float64
    assert len(mask.unique()) == 2
    zero = float((mask == 0).double().mean())
    assert zero == pytest.approx(p, abs=5 * (p * (1 - p) / mask.numel()) ** 0.5 + 2**-16)
    assert float(mask.max()) == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_rows_and_neighbours_are_independent():
    torch.manual_seed(1)
    keep = (quick_mask(torch.empty(400, 997), 0.3) > 0).double()
    for shifted in (keep.roll(1, 0), keep.roll(1, 1), keep.roll(4, 1), keep.roll(16, 1)):
        both = torch.stack([keep.flatten(), shifted.flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.01


def test_equal_seeds_give_equal_masks_and_the_stream_moves_on():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    x = torch.ones(64, 64)
    with quick_dropout(model):
        made = []
        for _ in range(2):
            torch.manual_seed(3)
            made.append(model(x))
        assert torch.equal(*made)
        assert not torch.equal(model(x), made[0])
        a, b = model[0](x), model[1](x)
        assert not torch.equal(a, b)
        layer = nn.Sequential(nn.Linear(64, 64), model)
        y = x.clone().requires_grad_()
        torch.manual_seed(3)
        (one,) = torch.autograd.grad(layer(y).sum(), y)
        torch.manual_seed(3)
        (again,) = torch.autograd.grad(checkpoint(layer, y, use_reentrant=False).sum(), y)
        assert torch.equal(one, again)


def test_evaluation_and_p_0_pass_through_and_the_model_is_left_as_it_was():
    model = tiny_model("bert")
    x = torch.randn(4, 5)
    with quick_dropout(model):
        drops = [m for m in model.modules() if isinstance(m, nn.Dropout)]
        assert drops
        assert all("forward" in vars(m) for m in drops)
        model.eval()
        assert all(torch.equal(m(x), x) for m in drops)
        model.train()
        drops[0].p = 0.0
        assert torch.equal(drops[0](x), x)
    assert not any("forward" in vars(m) for m in model.modules())


def _masks():
    sees = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(2)) > 0.4
    sees[..., 0] = True
    bias = torch.randn(1, 4, 5, 7, dtype=torch.float64)
    return {
        "none": {},
        "causal": {"is_causal": True},
        "truth values": {"attn_mask": sees},
        "a bias": {"attn_mask": bias, "scale": 1.0},
        "a bias and -inf": {"attn_mask": bias.masked_fill(~sees, -torch.inf)},
        "a bias and the least number": {"attn_mask": bias.masked_fill(~sees, torch.finfo(torch.float64).min)},
    }


def _heads(heads=4):
    made = [torch.randn(3, n, tokens, 6, dtype=torch.float64) for n, tokens in ((4, 5), (heads, 7), (heads, 7))]
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("name", list(_masks()))
@pytest.mark.parametrize("heads", [4, 2])
def test_attention_without_dropout_is_torchs_own(name, heads):
    torch.manual_seed(0)
    tensors, options = _heads(heads), _masks()[name] | {"enable_gqa": heads == 2}
    ours, its = attend(*tensors, **options), nn.functional.scaled_dot_product_attention(*tensors, **options)
    torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(its)
    for mine, other in zip(*(torch.autograd.grad((y * weights).sum(), tensors) for y in (ours, its)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_attention_drops_shares_and_scales_the_rest():
    torch.manual_seed(0)
    query, key, value = (x.detach() for x in _heads())
    torch.manual_seed(5)
    made = attend(query, key, value, dropout_p=0.3)
    torch.manual_seed(5)
    shares = torch.softmax(query @ key.mT / 6**0.5, -1)
    torch.testing.assert_close(made, (shares * quick_mask(shares, 0.3)) @ value)
    mean = torch.stack([attend(query, key, value, dropout_p=0.3) for _ in range(4000)]).mean(0)
    assert float((mean - shares @ value).abs().max()) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_query_that_may_look_nowhere_leaves_no_nan_behind(dtype):
    query, key, value = (torch.randn(1, 1, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    sees = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])
    for mask in (sees, torch.zeros(3, 3, dtype=dtype).masked_fill(~sees, -torch.inf)):
        made = attend(query, key, value, mask, dropout_p=0.2)
        assert made.dtype == dtype
        found = torch.autograd.grad(made.sum(), (query, key, value))
        assert all(bool(x.isfinite().all()) for x in (made, *found))


@pytest.mark.parametrize("form", ["t5", "bert", "qwen"])
def test_models_attend_with_quick_masks_inside_alone(form, monkeypatch):
    calls = []
    monkeypatch.setattr(dropout, "attend", lambda *a, **o: (calls.append(o["dropout_p"]), attend(*a, **o))[1])
    model, other = (_dropping(form) for _ in range(2))
    words = {"input_ids": torch.tensor([[4, 5, 6, 7]])} | ({"labels": torch.tensor([[1]])} if form == "t5" else {})

    def passes(which):
        calls.clear()
        which.train()(**words)
        return len(calls)

    assert passes(model) == 0
    with quick_dropout(model):
        assert passes(model) == {"t5": 6, "bert": 2, "qwen": 2}[form]
        assert set(calls) == {0.25}
        assert passes(other) == 0
        with quick_dropout(model):
            pass
        assert passes(model) > 0
        calls.clear()
        model.eval()(**words)
        assert not calls
    assert passes(model) == 0
    with quick_dropout(model, attention=False):
        assert passes(model) == 0


def _dropping(form):
    """One model that drops a quarter of its attention; ``qwen`` groups its queries."""
    if form == "qwen":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "head_dim": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=20, num_hidden_layers=2, attention_dropout=0.25, **sizes))
    return tiny_model(form, **{"dropout_rate" if form == "t5" else "attention_probs_dropout_prob": 0.25})


def test_kept_masks_are_made_once_and_are_the_same(monkeypatch):
    """By their seed: also those that a checkpointed layer draws again. Others are made anew, and nothing is kept after."""
    made = []
    monkeypatch.setattr(dropout, "_passed", lambda *key, passed=dropout._passed: made.append(key) or passed(*key))
    layer = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3), nn.Linear(64, 64), nn.Dropout(0.3))
    x = torch.ones(8, 64, requires_grad=True)

    def passes(masks):
        made.clear()
        out = []
        for seed, forward in ((3, layer), (4, layer), (3, lambda x: checkpoint(layer, x, use_reentrant=False))):
            torch.manual_seed(seed)
            with kept_masks(masks):
                out.append(torch.autograd.grad(forward(x).sum(), x)[0])
            out.append(torch.rand(1))  # the stream moves on as ever
        return out, len(made)

    with quick_dropout(layer):
        plain, count = passes(None)
        assert count == 8
        shared, count = passes({})
        assert count == 4
        assert all(torch.equal(a, b) for a, b in zip(plain, shared, strict=True))
        assert not torch.equal(shared[0], shared[2])
        passes(None)
        assert len(made) == 8
