"""Quick dropout masks: the right share, the right scale, the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from s3pet_viz.pet.dropout import quick_dropout, quick_mask


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
