"""One search step in each mode. Source: arXiv 2206.07382, section 3.2; see docs/method.md, "A search step".

A mode is a function of a `State` and a step number. It moves w and alpha and returns a `StepResult`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s3pet_viz.engine.optim import clip_
from s3pet_viz.engine.prune import PausingAdamW
from s3pet_viz.engine.state import TRAIN_MASKS, VAL_MASKS, WEIGHT_GATES, WEIGHT_STEP, Pass, State, StepResult
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet.dropout import Masks

#: Central difference of the published code: eps = 0.01 / ||v||.
PAPER_EPS = 1e-2
#: One-sided difference of fast mode: where truncation and float32 rounding errors cross (benchmarks/noise/fast_eps.py).
FAST_EPS = 1e-3


# -- the second-order term -----------------------------------------------------------------------------


def central_difference(
    state: State, step: int, z: Tensor, v: Tensor, c: float, kept: Masks | None = None
) -> tuple[Tensor, list[float]]:
    """``d2L_train/(dz dw) . v`` by central differences with eps = c / (||v|| + 1e-6), ||v|| over all w.

    Leaves w exactly as it was: the values are kept and copied back.
    """
    before = state.w.flat.clone()
    eps = c / (float(torch.linalg.vector_norm(v)) + 1e-6)
    state.w.set(before + eps * v)
    plus = state.run("train", step, z, TRAIN_MASKS, dw=False, kept=kept)
    state.w.set(before - eps * v)
    minus = state.run("train", step, z, TRAIN_MASKS, dw=False, kept=kept)
    state.w.set(before)
    return (plus.dz - minus.dz) / (2 * eps), [plus.loss, minus.loss]


def one_sided_difference(
    state: State, step: int, z: Tensor, at: Tensor, base: Pass, v: Tensor, c: float, kept: Masks | None = None
) -> tuple[Tensor, float]:
    """The same by one extra pass, from the pass `base` that was taken at weights `at` anyway.

    Leaves w as it found it.
    """
    before = state.w.flat.clone()
    eps = c / (float(torch.linalg.vector_norm(v)) + 1e-6)
    state.w.set(at + eps * v)
    shifted = state.run("train", step, z, TRAIN_MASKS, dw=False, kept=kept)
    state.w.set(before)
    return (shifted.dz - base.dz) / eps, shifted.loss


# -- modes ---------------------------------------------------------------------------------------------


def paper_step(state: State, step: int) -> StepResult:
    """The published step: virtual weight step, central differences, then alpha, then w. Five passes."""
    lr = state.w_lr(step)
    sample = state.sample(step)
    before, masks = state.w.flat.clone(), Masks()
    train = state.run("train", step, sample.z, TRAIN_MASKS, dz=False, kept=masks)
    virtual = state.w_opt.peek(before, train.dw, lr)
    state.w.set(virtual)
    val = state.run("val", step, sample.z, VAL_MASKS)
    state.w.set(before)
    # xi is the learning rate of w, as if its optimiser were SGD; a head's own rate enters as a ratio.
    xi = state.lr * state.schedule(step)
    direction = val.dw * state.lr_scale
    dz, difference_losses = central_difference(
        state, step, sample.z, direction, state.difference_eps or PAPER_EPS, masks
    )
    hessian = sample.pull_back(dz)
    grad = sample.pull_back(val.dz) - xi * hessian
    state.move_alpha(grad, step)

    fresh = state.sample(step, WEIGHT_GATES)
    weight = state.run("train", step, fresh.z, WEIGHT_STEP, dz=False)
    clip_(weight.dw, state.clip)
    state.w.set(state.w_opt.update(before, weight.dw, lr))
    return StepResult(
        zeta=sample.zeta,
        p=sample.p.detach(),
        train_loss=weight.loss,
        val_loss=val.loss,
        alpha_grad=grad,
        hessian=hessian,
        losses=[train.loss, val.loss, *difference_losses, weight.loss],
        detail={"virtual": virtual, "v": val.dw, "w_grad": weight.dw, "z": sample.z.detach()},
    )


def fast_step(state: State, step: int) -> StepResult:
    """Three passes at the old alpha: the weight update doubles as the virtual step, H is one-sided.

    A step without H is `first_order_step`, two passes; with H in every k-th step only, it counts k times there, so that
    its mean over steps stays.
    """
    if state.w_opt.t < state.second_order_from or step % state.second_order_every:
        return first_order_step(state, step)
    lr = state.w_lr(step)
    sample = state.sample(step)
    before, masks = state.w.flat.clone(), Masks()
    train = state.run("train", step, sample.z, TRAIN_MASKS, kept=masks)
    factor = _update_weights(state, train, before, lr)
    val = state.run("val", step, sample.z, VAL_MASKS)
    first = sample.pull_back(val.dz)
    # Everything that turns dL_train/dw into the step, held constant: rate, AdamW's slope, clip factor.
    xi = state.lr * state.schedule(step)
    v_bar = state.lr_scale * state.w_opt.slope() * factor * val.dw
    eps = state.difference_eps or FAST_EPS
    dz, loss = one_sided_difference(state, step, sample.z, before, train, v_bar, eps, masks)
    hessian = sample.pull_back(dz)
    grad = first - state.second_order_every * _capped(xi * hessian, first, state.second_order_cap)
    state.move_alpha(grad, step)
    losses = [train.loss, val.loss, loss]
    return StepResult(sample.zeta, sample.p.detach(), train.loss, val.loss, grad, hessian, losses)


def _capped(term: Tensor, other: Tensor, cap: float | None) -> Tensor:
    """`term`, scaled down to an L2 norm of at most `cap` times that of `other`."""
    limit = float("inf") if cap is None else cap * float(torch.linalg.vector_norm(other))
    norm = float(torch.linalg.vector_norm(term))
    return term if norm <= limit else term * (limit / norm)


def first_order_step(state: State, step: int) -> StepResult:
    """fast without H: two passes."""
    sample = state.sample(step)
    train = state.run("train", step, sample.z, TRAIN_MASKS, dz=False)
    _update_weights(state, train, state.w.flat, state.w_lr(step))
    val = state.run("val", step, sample.z, VAL_MASKS, dw=False)
    grad = sample.pull_back(val.dz)
    state.move_alpha(grad, step)
    return StepResult(sample.zeta, sample.p.detach(), train.loss, val.loss, grad, None, [train.loss, val.loss])


def single_level_step(state: State, step: int) -> StepResult:
    """w and alpha from the same train loss: one pass. The validation loss is not computed (NaN)."""
    sample = state.sample(step)
    train = state.run("train", step, sample.z, TRAIN_MASKS)
    _update_weights(state, train, state.w.flat, state.w_lr(step))
    grad = sample.pull_back(train.dz)
    state.move_alpha(grad, step)
    return StepResult(sample.zeta, sample.p.detach(), train.loss, float("nan"), grad, None, [train.loss])


def exact_step(state: State, step: int) -> StepResult:
    """fast's step with its gradient by automatic differentiation through the weight step. For checking.

    Holds AdamW's second moments and the clip factor constant. Needs a loss that is twice differentiable
    (eager attention) and memory for its graph.
    """
    with state.problem.differentiable_twice():
        return _exact_step(state, step)


def _exact_step(state: State, step: int) -> StepResult:
    lr = state.w_lr(step)
    sample = state.sample(step)
    z = sample.z.detach().to(state.w.flat).requires_grad_()
    batch = state.problem.batch("train", step)
    with state.masks(step, TRAIN_MASKS):
        loss = state.problem.loss(batch, z)
        train_loss = state.check(loss, "train", step)
        grads = torch.autograd.grad(loss, state.w.parameters, create_graph=True, allow_unused=True)
    flat_grad = state.w.join(grads)
    factor = clip_(flat_grad, state.clip)
    after = state.w_opt.update(state.w.flat, flat_grad, lr)
    slope = state.w_opt.slope() * lr * factor
    # The value of w' is the step taken; its derivative is the step's. w itself moves only once the graph that
    # still reads it is done with.
    stepped = [
        w if g is None else w - s * (g - g.detach())
        for w, s, g in zip(state.w.split(after), state.w.split(slope), grads, strict=True)
    ]
    batch = state.problem.batch("val", step)
    with state.masks(step, VAL_MASKS):
        val = state.problem.loss(batch, z, stepped)
        val_loss = state.check(val, "val", step)
        (dz,) = torch.autograd.grad(val, z)
    state.w.set(after)
    grad = sample.pull_back(dz.to("cpu", torch.float64))
    state.move_alpha(grad, step)
    return StepResult(sample.zeta, sample.p.detach(), train_loss, val_loss, grad, None, [train_loss, val_loss])


def prune_step(state: State, step: int) -> StepResult:
    """One train pass at hard gates: the weights of the open ones move, every gate is scored. See `engine.prune`.

    The validation loss is that of a look at held-out rows, NaN in the steps between.
    """
    pruning = state.pruning
    assert pruning is not None
    z, rate = pruning.mask(), pruning.factor
    zeta, p = state.gates.solve(state.alpha), state.gates.probabilities(state.alpha)
    still = pruning.stands_still(step)
    train = state.run("train", step, z, TRAIN_MASKS, closed=not still)
    if not torch.isfinite(train.dz).all():
        raise NonFiniteLossError(f"step {step}: the gradient of the gates is not finite")
    # Of each weight: 1 or 0 as its gate, 1 of one pinned in, and 1 for a head, which has none and keeps its own rate.
    after = int(state.gate_of.max()) + 2 - len(z) if len(state.gate_of) else 1
    moving = torch.cat([z, z.new_ones(max(1, after))]).to(state.w.flat)[state.gate_of]
    if isinstance(state.w_opt, PausingAdamW):
        state.w_opt.moving = moving > 0
    lr = state.w_lr(step) * torch.where(state.gate_of >= 0, moving * rate, moving)
    _update_weights(state, train, state.w.flat, lr)
    pruning.see(train.loss, None if still else train.dz)
    held_out = state.held_out(step, pruning.mask()) if pruning.looks(step) else None
    pruning.advance(step, held_out)
    state.alpha = pruning.alpha
    losses = [train.loss, *([] if held_out is None else [held_out])]
    val = float("nan") if held_out is None else held_out
    return StepResult(zeta, p, train.loss, val, train.dz, None, losses, rate=rate)


def warmup_step(state: State, step: int) -> StepResult:
    """Move only the weights, at gates drawn from the present alpha."""
    sample = state.sample(step)
    train = state.run("train", step, sample.z, TRAIN_MASKS, dz=False)
    _update_weights(state, train, state.w.flat, state.w_lr(step))
    still = torch.zeros_like(state.alpha)
    return StepResult(sample.zeta, sample.p.detach(), train.loss, float("nan"), still, None, [train.loss])


def _update_weights(state: State, train: Pass, before: Tensor, lr: Tensor) -> float:
    factor = clip_(train.dw, state.clip)
    state.w.set(state.w_opt.update(before, train.dw, lr))
    return factor


Step = Callable[[State, int], StepResult]

#: Search modes by name.
MODES: dict[str, Step] = {
    "fast": fast_step,
    "paper": paper_step,
    "first-order": first_order_step,
    "single-level": single_level_step,
    "exact": exact_step,
    "prune": prune_step,
}
