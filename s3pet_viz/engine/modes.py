"""One search step in each mode. Source: arXiv 2206.07382, section 3.2; see docs/method.md, "A search step".

A mode is a function of a `State` and a step number. It moves w and alpha and returns a `StepResult`. Every
random choice is a pure function of (seed, step, purpose), so that a resumed search repeats it exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from torch import Tensor

from s3pet_viz.backbones.shared import seeded
from s3pet_viz.engine.gates import GateModel, GateSample
from s3pet_viz.engine.optim import AdamW, FlatWeights, clip_
from s3pet_viz.engine.problem import Half, Problem
from s3pet_viz.engine.prune import BATCHES, PausingAdamW, Pruning
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet.dropout import Masks, kept_masks
from s3pet_viz.training.processes import Processes

# Purposes of random numbers.
GATES, TRAIN_MASKS, VAL_MASKS, WEIGHT_STEP, WEIGHT_GATES = range(5)

#: Central difference of the published code: eps = 0.01 / ||v||.
PAPER_EPS = 1e-2
#: One-sided difference of fast mode: where truncation and float32 rounding errors cross (benchmarks/noise/fast_eps.py).
FAST_EPS = 1e-3


@dataclass
class StepResult:
    """What one step did. Tensors of shape (n_gates,) are float64 on the CPU.

    ``alpha_grad`` is the gradient before clipping and ``hessian`` the second-order term H in it (before xi).
    ``losses`` lists every loss in the order it was computed; ``rate`` is what the weights' rate was multiplied by.
    """

    zeta: float
    p: Tensor
    train_loss: float
    val_loss: float
    alpha_grad: Tensor
    hessian: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    detail: dict[str, Tensor] = field(default_factory=dict)
    rate: float = 1.0


@dataclass
class Pass:
    """A loss and its gradients: dz (n_gates,) on the CPU, 0 where not asked for, and dw flat, empty there."""

    loss: float
    dz: Tensor
    dw: Tensor


@dataclass(eq=False)
class State:
    """Everything that a search step reads and moves.

    Attributes:
        w: the PET weights (flat), alpha: structure parameters, shape (n_gates,), float64.
        w_opt, alpha_opt: their optimisers.
        pruning: the scores and the phase of mode ``prune``; None in the others.
    """

    problem: Problem
    gates: GateModel
    _: KW_ONLY
    lr: float = 3e-4
    alpha_lr: float = 0.1
    clip: float = 2.0
    seed: int = 0
    difference_eps: float | None = None
    #: AdamW is close to sign descent before, and its true second-order term close to zero.
    second_order_from: int = 20
    #: xi H is heavy-tailed (benchmarks/noise/alpha_noise.py: up to 5 times dL_val/dalpha on a real encoder, its mean
    #: not distinguishable from 0), and one outlier slows AdamW's alpha for hundreds of steps: keep it at most as long.
    second_order_cap: float | None = 1.0
    second_order_every: int = 1
    accumulation: int = 1
    processes: Processes = field(default_factory=Processes)
    schedule: Callable[[int], float] = lambda step: 1.0
    pruning: Pruning | None = None

    def __post_init__(self) -> None:
        problem, pruning = self.problem, self.pruning
        self.w = FlatWeights(problem.weights)
        self.alpha = torch.zeros(len(self.gates.counts), dtype=torch.float64)
        self.w_opt = (AdamW if pruning is None else PausingAdamW)(self.w.flat, self.w.sizes)
        self.alpha_opt = AdamW(self.alpha)
        scale = [torch.full((n,), s, dtype=torch.float32) for n, s in zip(self.w.sizes, problem.lr_scale, strict=True)]
        self.lr_scale = torch.cat(scale).to(self.w.flat) if scale else self.w.flat.clone()
        if pruning is not None:
            owners = [torch.full((n,), i) for n, i in zip(self.w.sizes, problem.gate_of, strict=True)]
            self.gate_of = torch.cat(owners).to(self.w.flat.device)

    # -- ingredients -----------------------------------------------------------------------------------

    def w_lr(self, step: int) -> Tensor:
        """Learning rate of each weight at this step (flat)."""
        return self.lr_scale * (self.lr * self.schedule(step))

    def draw(self, step: int, purpose: int = GATES) -> Tensor:
        """Uniforms for the gates at this step, shape (n_gates,)."""
        rng = np.random.default_rng([self.seed, step, purpose])
        u = torch.from_numpy(rng.random(len(self.gates.counts)))
        return u.clamp(1e-12, 1 - 1e-12)

    def sample(self, step: int, purpose: int = GATES) -> GateSample:
        return self.gates.sample(self.alpha, self.draw(step, purpose))

    def run(
        self,
        half: Half,
        step: int,
        z: Tensor,
        masks: int,
        *,
        dw: bool = True,
        dz: bool = True,
        closed: bool = True,
        kept: Masks | None = None,
    ) -> Pass:
        """Forward and backward at the present w. `masks` names the dropout masks: equal ones are equal.

        Without `closed`, gates at 0 are left out of the pass: it is cheaper, and their dz is 0. Passes with the same
        `kept` make their equal masks once (not of a batch in parts, which is there to need less memory).
        """
        batch = self.problem.batch(half, step)
        gate = z.detach().to(self.w.flat).requires_grad_(dz)
        # Read on the CPU, where z is: no gate is asked on the device.
        out = torch.nonzero(z == 0).flatten().tolist() if self.gates.skip_below or not closed else ()
        self.problem.closed = frozenset(out)
        inputs = ([gate] if dz else []) + (self.w.parameters if dw else [])
        loss, dz_sum, dw_sum = gate.new_zeros(()), torch.zeros_like(gate), gate.new_zeros(0)
        kept = kept if self.accumulation == 1 else None
        with self.masks(step, masks), kept_masks(kept), self.w.fixed() if not dw else nullcontext():
            for share, part in self.problem.parts(batch, self.accumulation):
                part_loss = self.problem.loss(part, gate) * share
                grads = list(torch.autograd.grad(part_loss, inputs, allow_unused=True))
                loss = loss + part_loss.detach()
                gate_grad = grads.pop(0) if dz else None
                if gate_grad is not None:
                    dz_sum = dz_sum + gate_grad
                if dw:
                    dw_sum = dw_sum.add_(self.w.join(grads)) if len(dw_sum) else self.w.join(grads)
        if self.processes.size > 1:
            loss, dz_sum, dw_sum = self.processes.mean(self.problem.size(batch), [loss, dz_sum, dw_sum])
        return Pass(loss=self.check(loss, half, step), dz=dz_sum.to("cpu", torch.float64), dw=dw_sum)

    def masks(self, step: int, masks: int) -> AbstractContextManager[None]:
        """Inside, dropout masks are a pure function of (seed, step, purpose, process)."""
        own = [self.processes.rank] if self.processes.rank else []
        state = np.random.SeedSequence([self.seed, step, masks, *own]).generate_state(1, np.uint64)
        return seeded(int(state[0]))

    @torch.no_grad()
    def held_out(self, step: int, z: Tensor, batches: int = BATCHES) -> float:
        """Mean validation loss at z over the first batches, the same in every process."""
        self.problem.closed = frozenset(torch.nonzero(z == 0).flatten().tolist())
        gate, sums, rows = z.to(self.w.flat), self.w.flat.new_zeros(()), 0
        with self.masks(step, VAL_MASKS):
            for batch in (self.problem.batch("val", k) for k in range(batches)):
                sums = sums + self.problem.loss(batch, gate) * self.problem.size(batch)
                rows += self.problem.size(batch)
        self.problem.closed = frozenset()
        loss = sums / rows
        return self.check(self.processes.mean(rows, [loss])[0] if self.processes.size > 1 else loss, "val", step)

    def check(self, loss: Tensor, half: Half, step: int) -> float:
        value = float(loss.detach())
        if not np.isfinite(value):
            raise NonFiniteLossError(f"step {step}: {half} loss is {value}")
        return value

    def move_alpha(self, grad: Tensor, step: int) -> None:
        """Clip and step alpha; refuses a gradient that is not finite."""
        if not torch.isfinite(grad).all():
            raise NonFiniteLossError(f"step {step}: the gradient of alpha is not finite")
        grad = grad.clone()
        clip_(grad, self.clip)
        self.alpha = self.alpha_opt.update(self.alpha, grad, self.alpha_lr * self.schedule(step))


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
