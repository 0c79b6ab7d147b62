"""Small problems for the search: one whose answer is known, and a smooth backbone in float64."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

from s3pet_viz.backbones import positions
from s3pet_viz.engine import Callback, SearchConfig
from s3pet_viz.engine.api import make_state
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.loop import Search
from s3pet_viz.engine.prune import BATCHES
from s3pet_viz.engine.state import State
from s3pet_viz.pet import PRESETS, candidate_gates, insert
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

#: Steps of a short search.
STEPS = 8


class StopAt(Callback):
    def __init__(self, step):
        self.step = step
        self.seen = []

    def on_search_begin(self, search):
        self.seen.append("begin")

    def on_step_end(self, search, step, result):
        self.seen.append(step)
        if step + 1 == self.step:
            search.request_stop("enough")

    def on_search_end(self, search):
        self.seen.append("end")


class FewGatesCarryTheSignal:
    """Linear regression in which gate i adds ``z_i x_i . w_i``; only the gates in `signal` matter.

    The other gates see pure noise, so a search that works opens exactly `signal`.
    """

    def __init__(self, n_gates=12, width=3, signal=(2, 7, 9), seed=0, rows=256, dtype=torch.float64):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((2, rows, n_gates, width))
        truth = np.zeros((n_gates, width))
        truth[list(signal)] = rng.choice([-1.0, 1.0], (len(signal), width))
        y = np.einsum("hrgw,gw->hr", x, truth) + 0.1 * rng.standard_normal((2, rows))
        self.x, self.y = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)
        self.signal = set(signal)
        self.counts = [width] * n_gates
        self.budget = width * len(signal)
        self.weights = [nn.Parameter(torch.zeros(width, dtype=dtype)) for _ in range(n_gates)]
        self.lr_scale = [1.0] * n_gates
        self.gate_of = list(range(n_gates))

    differentiable_twice = staticmethod(nullcontext)
    closed = frozenset()

    def size(self, batch):
        return len(batch[1])

    def constant_loss(self, half):
        rows = range(self.y.shape[1]) if half == "train" else torch.cat([self.batch(half, k)[1] for k in range(BATCHES)])
        return float(self.y[int(half == "val"), rows].var(correction=0))

    def parts(self, batch, n):
        half, rows = batch
        return [(len(part) / len(rows), (half, part)) for part in rows.chunk(n)]

    def batch(self, half, step):
        chosen = np.random.default_rng([step, half == "val"]).choice(self.x.shape[1], 32, replace=False)
        return int(half == "val"), torch.from_numpy(chosen)

    def loss(self, batch, z, weights=None):
        half, rows = batch
        w = torch.stack(list(self.weights if weights is None else weights))
        guess = torch.einsum("rgw,gw,g->r", self.x[half, rows], w, z)
        return ((guess - self.y[half, rows]) ** 2).mean()


class _Norm64(nn.Module):
    """T5's norm without its float32 variance."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def tiny_t5(*, act="gelu", dropout=0.0, seed=0, smooth=True, dtype=torch.float64, **sizes):
    """A small T5; `smooth`: eager attention and norms in full precision, so that it is twice differentiable."""
    torch.manual_seed(seed)
    config = T5Config(
        **{
            "vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1,
            "num_heads": 4, "relative_attention_num_buckets": 8, "feed_forward_proj": act, "dropout_rate": dropout,
            "decoder_start_token_id": 0, "pad_token_id": 0, **sizes,
        }
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).to(dtype)
    if smooth:
        model.set_attn_implementation("eager")
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, T5LayerNorm):
                    setattr(module, name, _Norm64(child))
    return model.requires_grad_(False)


def random_batches(vocab=40, rows=4, source=8, target=3):
    """Batches that are a pure function of (half, step)."""

    def batch(half, step):
        rng = np.random.default_rng([step, half == "val", 5])
        return {
            "input_ids": torch.from_numpy(rng.integers(2, vocab, (rows, source))),
            "attention_mask": torch.ones(rows, source, dtype=torch.long),
            "labels": torch.from_numpy(rng.integers(2, vocab, (rows, target))),
        }

    return batch


class SGD:
    """``w <- w - lr * g``: a weight step that any formula can follow."""

    def __init__(self, like, sizes=None):
        self.t, self.ones = 0, torch.ones_like(like)

    def peek(self, w, g, lr):
        return w - lr * g

    def update(self, w, g, lr):
        self.t += 1
        return self.peek(w, g, lr)

    def slope(self):
        return self.ones


def t5_state(model=None, *, space="S3PET-M", share=0.3, alpha=0.5, batch=None, optimizer=None, **options):
    """A `State` over all gates of a T5, at a random alpha so that no two gates are alike."""
    model = tiny_t5() if model is None else model
    gates, _ = candidate_gates(positions(model), PRESETS[space])
    pets = insert(model, gates)
    problem = BackboneProblem(model, pets, batch or random_batches())
    counts = [g.n_params for g in gates]
    state = State(problem, GateModel(counts, share * sum(counts)), **{"lr": 3e-3, "second_order_cap": None, **options})
    state.alpha = torch.from_numpy(np.random.default_rng(3).normal(0, alpha, len(gates)))
    if optimizer is not None:
        state.w_opt = optimizer(state.w.flat, state.w.sizes)
    return state


def line_of_gates(counts):
    """One LoRA gate per layer, of these sizes."""
    return [Gate(i, f"encoder.{i}.q", "encoder", i, "SelfAttn.Q", "LoRA", n) for i, n in enumerate(counts)]


def toy_search(folder, *, counts=(3,) * 12, budget=9, alpha=None, callbacks=(), lr=1e-2, problem=None, **options):
    """A whole search of `FewGatesCarryTheSignal` into a run directory; `alpha`: where it starts."""
    problem = problem or FewGatesCarryTheSignal(n_gates=len(counts), signal=(0, len(counts) - 1))
    given = {"mode": "first-order", "steps": 40, **options}
    config = SearchConfig(task="toy", backbone="toy", budget=budget, **given)
    state = make_state(problem, counts, budget, config, lr)
    if alpha is not None:
        state.alpha = torch.tensor(alpha, dtype=torch.float64)
    extra = {"backbone": "toy", "backbone_params": 1000, "budget": budget, "steps_total": config.steps}
    extra |= {"constant_loss": problem.constant_loss("train")} if config.mode == "prune" else {}
    gates = line_of_gates(counts)
    with RunWriter.create(folder, gates=gates, config=config.to_dict(), extra=extra) as writer:
        Search(config, gates, state, writer, fingerprint={}, callbacks=callbacks, progress=False).run()
    return open_run(folder)


def written_run(folder, gates, alpha, *, backbone="toy", backbone_params=1000, budget=9, steps=1):
    """A finished run whose last alpha is known."""
    counts = [g.n_params for g in gates]
    extra = {"backbone": backbone, "backbone_params": backbone_params, "budget": budget, "steps_total": steps}
    with RunWriter.create(folder, gates=gates, config={"space": "mine"}, extra=extra) as writer:
        for step in range(steps):
            now = np.asarray(alpha, dtype=np.float64) * (step + 1) / steps
            zeta = solve_shift(now, counts, budget) if np.isfinite(now).all() else 0.0
            writer.append(
                step=step, seconds=1, zeta=zeta, train_loss=1, val_loss=1, lr=1, alpha=now, p=probabilities(now, zeta)
            )
        writer.set_status("finished")
    return open_run(folder)
