"""What each gate of a structure is worth once the structure is tuned: leave one gate out, and gate gradients.

p says what the search believed. This measures it: `leave_one_out` closes one gate at a time, `gate_gradients`
estimates the same to first order from one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.config.checks import whole
from s3pet_viz.config.options import takes
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError, NonFiniteLossError
from s3pet_viz.pet import PETs
from s3pet_viz.runs import Run
from s3pet_viz.sources import Source, open_source, structure_of
from s3pet_viz.structure import ranks
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import IGNORE, Features
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.own import own_row_losses
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.tuning.origin import TrainOptions, bench_of, split_options, takes_place
from s3pet_viz.tuning.workbench import Workbench

#: Losses of some rows under gates z: (n_gates,) -> (rows,), differentiable in z.
RowLosses: TypeAlias = Callable[[Tensor], Tensor]


@takes(TuneConfig)
@takes_place
def explain(
    target: Source,
    *,
    budget: str | int | float | None = None,
    rows: int | None = None,
    metric: bool = True,
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> Explanation:
    """Tune a structure, then measure on validation rows what each of its gates is worth.

    The rows are the validation split, which also chose the best weights; no test row is used for it. An encoder's
    head stays as it was tuned with every gate open. All numbers are of one tuning with one seed: a gate that seems to
    do nothing may matter where another, tuned beside it, does not stand in for it.

    Args:
        target: a run or a structure, or what names one (`sources.Source`).
        task, backbone: as `tune`; default: the run's or structure's own.
        budget: of a run: explain the structure that it gives at this budget.
        rows: at most so many validation rows, drawn with the seed (rows of one group, such as the candidates
            of a question, stay together); of own batches the first ones. None: all.
        metric: also the change of the task's score. Text-to-text backbones have to generate every answer once per
            gate for it, which takes most of the time.
        model, tokenizer, device, precision, split, workbench, load, train, validation, loss, ...: as `tune`.
            What is measured of own batches are batches, not rows.
        options: fields of `TuneConfig`.

    Returns:
        An `Explanation`. ``.table`` has the numbers, ``.save(run)`` keeps it as the run's ``explain.json``.

    Raises:
        S3PETError: one of its kinds, before any long work starts; NonFiniteLossError in training or measuring.
    """
    place, others = split_options(options, budget=budget, metric=metric, progress=progress)
    if rows is not None:
        rows = whole("rows", rows, 1)
    source = open_source(target, what="target", backbone=place["backbone"])
    structure = structure_of(source, budget)
    need_sizes(structure.gates, "explain")
    bench, config, _ = bench_of(source, place, others)
    validation = bench.splits.validation
    own = isinstance(validation, OwnBatches)
    measured = (
        validation.first(rows) if isinstance(validation, OwnBatches) else some_rows(validation, rows, config.seed)
    )
    if isinstance(measured, OwnBatches) and measured.probe()[1] is None:
        raise ConfigError("validation: expected the same batches at each reading, for gates are compared on them")
    with bench.tuned(structure, config, progress=progress, test=False) as (scores, pets):
        assert pets is not None  # a structure always has them
        found = _measure(bench, pets, measured, config.eval_batch_size, metric=metric, progress=progress)
    known = _search_says(source, budget) if isinstance(source, Run) else {}
    spec = bench.splits.data.task
    return Explanation(
        tuple(
            GateEffect(gate, **known.get(gate.key, {}), **numbers)
            for gate, numbers in zip(structure.gates, found["gates"], strict=True)
        ),
        task=spec.name,
        backbone=bench.backbone.name,
        run=source.name if isinstance(source, Run) else "",
        seed=config.seed,
        steps=scores.steps_taken,
        best_step=scores.best_step,
        n_rows=found["n_rows"],
        loss=found["loss"],
        score=found["score"],
        metrics=tuple(spec.metrics),
        unit=_unit(bench),
        measured="batches" if own else "rows",
    )


def _unit(bench: Workbench) -> str:
    form, spec = bench.backbone.form, bench.splits.data.task
    return spec.name if form == "own" else "squared error" if form == "pair" and spec.kind == "regression" else "nats"


def leave_one_out(
    parts: Sequence[RowLosses], open_gates: Tensor, *, gates: Iterable[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Losses with every gate open, and how much each row's loss rises when one gate is closed.

    Args:
        parts: the losses of some rows each.
        open_gates: ones, shape (n_gates,), of the dtype and on the device that the losses expect.
        gates: which gates to close, in this order. None: each.

    Returns:
        Losses, shape (n_rows,), and L(z_i = 0) - L(all open), shape (len(gates), n_rows): float64, on the CPU.
        A gate whose delta is zero gives exactly 0.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite; names the gate that was closed.
    """
    with torch.no_grad():
        base = losses_of(parts, open_gates, "every gate open")
        rises = []
        for i in range(len(open_gates)) if gates is None else gates:
            z = open_gates.clone()
            z[i] = 0
            rises.append(losses_of(parts, z, f"gate {i} closed") - base)
    return base, torch.stack(rises)


def gate_gradients(parts: Sequence[RowLosses], open_gates: Tensor) -> Tensor:
    """``-dL/dz`` of the mean loss at z = 1: the first-order estimate of what closing a gate does to it.

    By Taylor, L(z_i = 0) - L(z_i = 1) = -dL/dz_i plus terms of second order. It is the gate sensitivity of Michel
    et al. 2019 (arXiv 1905.10650) and the first-order term of Molchanov et al. 2019 (arXiv 1906.10771), except that
    the sign is kept: they average absolute values, or squares. Every PET module is linear in its last weights w, so
    dL/dz = w . dL/dw, which nears 0 as training converges, however much the gate matters. Read it beside
    `leave_one_out`, not in its place.

    Args:
        parts, open_gates: as `leave_one_out`.

    Returns:
        float64 on the CPU, shape (n_gates,).
    """
    total = torch.zeros(len(open_gates), dtype=torch.float64)
    n_rows = 0
    for part in parts:
        z = open_gates.detach().clone().requires_grad_()
        losses = part(z)
        (gradient,) = torch.autograd.grad(losses.sum(), z)
        total -= gradient.double().cpu()
        n_rows += len(losses)
    return total / n_rows


def row_losses(bench: Workbench, pets: PETs, features: Features | OwnBatches, batch_size: int) -> list[RowLosses]:
    """The loss of every row, batch by batch, as a function of the gates.

    Text-to-text: mean cross-entropy of the row's target tokens, nats. Encoders: cross-entropy (nats; the mean over
    words that are tagged, or over several labels) or squared error. The mean over rows is `evaluate`'s loss where all
    targets have the same length. Of own batches, a batch is a row.
    """
    backbone = bench.backbone
    if isinstance(features, OwnBatches):
        return own_row_losses(backbone, features, batch_size, pets.gated, bench.device)
    options = {"use_cache": False} if backbone.form == "text" else {}

    def part(indices: Any) -> RowLosses:
        def losses(z: Tensor) -> Tensor:  # (n_gates,) -> (rows,)
            batch = features.batch(indices, bench.device.torch)
            with LOCK, bench.device.autocast(), pets.gated(z):
                logits = backbone.model(**batch, **options).logits
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            labels = batch["labels"]
            if backbone.causal:
                # A token's logits stand at the token before it.
                logits, labels = logits[:, :-1], labels[:, 1:]
            if labels.dim() == 2 and logits.dim() == 3:
                tokens = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
                return tokens.sum(1) / (labels != IGNORE).sum(1)
            if labels.dim() == 2:
                return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
            if labels.is_floating_point():
                return (logits.squeeze(-1) - labels) ** 2
            return F.cross_entropy(logits, labels, reduction="none")

        return losses

    return [part(indices) for indices in features.by_length(batch_size)]


def _measure(
    bench: Workbench, pets: PETs, features: Features | OwnBatches, batch_size: int, *, metric: bool, progress: bool
) -> dict[str, Any]:
    """``n_rows``, ``loss`` and ``score`` with every gate open, and ``gates``: the fields of each `GateEffect`."""
    backbone, task, n_gates = bench.backbone, bench.splits.data.task, len(pets.gates)
    open_gates = torch.ones(n_gates, dtype=next(pets.parameters()).dtype, device=bench.device.torch)
    parts = row_losses(bench, pets, features, batch_size)

    def each(what: str) -> Iterable[int]:
        return tqdm(range(n_gates), desc=what, unit="gate", leave=False, disable=not progress)

    def score(closed: int | None = None) -> float:
        z = open_gates.clone()
        if closed is not None:
            z[closed] = 0
        with pets.gated(z):
            autocast = bench.device.autocast
            return evaluate(backbone, task, features, batch_size=batch_size, autocast=autocast)["score"]

    base, rises = leave_one_out(parts, open_gates, gates=each("leave one gate out"))
    gradient = gate_gradients(parts, open_gates)
    whole = score() if metric else math.nan
    changes = [score(i) - whole for i in each(f"{task.name} without a gate")] if metric else [math.nan] * n_gates
    n_rows = rises.shape[1]
    errors = rises.std(1) / math.sqrt(n_rows) if n_rows > 1 else torch.full((n_gates,), math.nan)
    gates = [
        {
            "loss_increase": float(rises[i].mean()),
            "loss_increase_se": float(errors[i]),
            "metric_change": changes[i],
            "gradient": float(gradient[i]),
        }
        for i in range(n_gates)
    ]
    return {"n_rows": n_rows, "loss": float(base.mean()), "score": whole, "gates": gates}


def losses_of(parts: Sequence[RowLosses], z: Tensor, what: str) -> Tensor:
    losses = torch.cat([part(z).double().cpu() for part in parts])
    if not torch.isfinite(losses).all():
        raise NonFiniteLossError(f"explain: with {what} the loss of a validation row is not finite")
    return losses


def _search_says(run: Run, budget: str | int | float | None) -> dict[tuple[str, str], dict[str, float]]:
    """p, alpha and rank of each gate of the space, by key."""
    alpha, p = run.alpha(), run.p(budget=budget)
    rank = ranks(alpha)
    return {
        gate.key: {"p": float(p[i]), "alpha": float(alpha[i]), "rank": float(rank[i])}
        for i, gate in enumerate(run.gates_list)
    }


def some_rows(features: Features, rows: int | None, seed: int) -> Features:
    """All rows, or whole groups of them up to `rows` (one group at least)."""
    if rows is None or rows >= len(features):
        return features
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(features.examples):
        key = ("row", i) if example.group is None else ("group", example.group)
        groups.setdefault(key, []).append(i)
    members = list(groups.values())
    chosen: list[int] = []
    for k in np.random.default_rng([seed, 13]).permutation(len(members)):
        if chosen and len(chosen) + len(members[k]) > rows:
            break
        chosen += members[k]
    return features.take(sorted(chosen))
