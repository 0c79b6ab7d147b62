"""What a search step reads and moves, and what it gives back: the weights, alpha, and passes at hard or soft gates.

Every random choice is a pure function of (seed, step, purpose), so that a resumed search repeats it exactly.
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
