"""What a change of a structure does, measured: the structure and each changed one are trained, and compared on the same
validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.config.checks import seed_list, whole
from s3pet_viz.config.options import takes
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError, short
from s3pet_viz.sources import Source, open_source, structure_of
from s3pet_viz.structure import Structure
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.tuning.explain import losses_of, row_losses, some_rows
from s3pet_viz.tuning.origin import TrainOptions, bench_of, split_options, takes_place
from s3pet_viz.tuning.workbench import Workbench

_KEYS = ("add", "remove")


@takes(TuneConfig, "seed")
@takes_place
def what_if(
    target: Source,
    changes: Any,
    *,
    budget: str | int | float | None = None,
    seeds: int | Sequence[int] = 1,
    rows: int | None = None,
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> pd.DataFrame:
    """Measure what changes of a structure do to the validation loss: swaps at the cut, a gate more, a gate less.

    The structure and each changed one are trained from scratch, once a seed: (changes + 1) x seeds trainings. The
    validation rows have chosen the weights of each; no test row is used.

    Args:
        target: a run or a structure, or what names one.
        changes: one or several, each a mapping of ``add``, ``remove`` or both, as `Structure.edit` takes them; a text
            is a gate to add. A change may go above the budget: the table says by how much.
        budget: of a run: change the structure that it gives at this budget.
        seeds: how many (0, 1, ...), or which. One seed cannot tell a change from another seed's training.
        rows: at most so many validation rows, as in `explain`.
        options: of `tune`: task, backbone, model, device, ...; fields of `TuneConfig`.

    Returns:
        One row a change, in order, after a first row of the structure as it is. Columns: change (in words), n_params,
        over (parameters above the budget), seeds, loss (mean over rows and seeds), loss_change (less the first row's;
        below 0: better), loss_change_se and se_of: of two seeds or more ``seeds`` (the standard deviation of the
        seeds' means, over the root of their number), of one seed ``rows`` (paired rows: how exactly this pair of
        trainings is told apart, not whether others would say the same).

    Raises:
        S3PETError: one of its kinds, before any long work; NonFiniteLossError in training or measuring.
    """
    place, others = split_options(options, budget=budget, progress=progress)
    drawn = seed_list(seeds)
    if "seed" in others:
        raise ConfigError(f"seed: expected seeds, found seed={short(others['seed'])}")
    rows = None if rows is None else whole("rows", rows, 1)
    source = open_source(target, what="target", backbone=place["backbone"])
    base = structure_of(source, budget)
    need_sizes(base.gates, "what_if")
    asked = _read(changes)
    free = replace(base, budget=None)
    made = [free, *(free.edit(**one, of=None if isinstance(source, Structure) else _pool(source)) for one in asked)]
    words = ["as it is", *map(_words, made[1:])]
    if empty := next((said for one, said in zip(made, words, strict=True) if not one.gates), None):
        raise ConfigError(f"changes: expected a structure with gates, found none left: {empty}")
    bench, config, _ = bench_of(source, place, others)
    losses = np.array(
        [[_row_losses(bench, one, replace(config, seed=seed), rows, progress) for seed in drawn] for one in made]
    )  # (structures, seeds, rows)
    table = []
    for structure, said, found in zip(made, words, losses, strict=True):
        change = found - losses[0]  # (seeds, rows)
        by_seed = change.mean(axis=1)
        several, sample = len(drawn) > 1, by_seed if len(drawn) > 1 else change[0]
        error = float(np.std(sample, ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else math.nan
        table.append(
            {
                "change": said,
                "n_params": structure.n_params,
                "over": max(0, structure.n_params - (base.budget or structure.n_params)),
                "seeds": len(drawn),
                "loss": float(found.mean()),
                "loss_change": float(by_seed.mean()),
                "loss_change_se": math.nan if structure is free else error,
                "se_of": "seeds" if several else "rows",
            }
        )
    return pd.DataFrame(table)


def _read(changes: Any) -> list[dict[str, Any]]:
    several = [changes] if isinstance(changes, (str, Mapping)) else changes
    if not (isinstance(several, (list, tuple)) and several):
        raise ConfigError(f"changes: expected at least one mapping of add and remove, found {short(changes)}")
    made = [{"add": one} if isinstance(one, str) else one for one in several]
    for one in made:
        if not isinstance(one, Mapping) or not one or set(one) - set(_KEYS):
            raise ConfigError(f"changes: expected mappings of add and remove, found {short(one)}")
    return [dict(one) for one in made]


def _pool(source: Any) -> Any:
    return getattr(source, "candidates", None) or source.gates


def _words(structure: Structure) -> str:
    last = structure.source["edits"][-1]
    parts = [f"{sign} {', '.join(last[side])}" for sign, side in (("+", "added"), ("-", "removed")) if last[side]]
    return "; ".join(parts)


def _row_losses(bench: Workbench, structure: Structure, config: TuneConfig, rows: int | None, progress: bool) -> Any:
    """Of each validation row (own batches: each batch), the same rows for every structure and seed; shape (rows,)."""
    validation = bench.splits.validation
    if isinstance(validation, OwnBatches) and validation.probe()[1] is None:
        raise ConfigError("validation: expected the same batches at each reading, for structures are compared on them")
    measured = validation.first(rows) if isinstance(validation, OwnBatches) else some_rows(validation, rows, 0)
    with bench.tuned(structure, config, progress=progress, test=False) as (_, pets), torch.no_grad():
        assert pets is not None  # a structure always has them
        z = torch.ones(len(pets.gates), dtype=next(pets.parameters()).dtype, device=bench.device.torch)
        parts = row_losses(bench, pets, measured, config.eval_batch_size)
        return losses_of(parts, z, "every gate open").numpy()
