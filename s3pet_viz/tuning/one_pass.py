"""One-pass scores: structures picked by one pass of scores over the open gates.

They cost seconds. A search that does not beat them at the same budget is not worth its time, so they are baselines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from s3pet_viz.analysis.one_pass import OnePassScores, Per, check_size
from s3pet_viz.backbones.position import Position
from s3pet_viz.config.checks import whole
from s3pet_viz.config.names import LAYER_SCORES, ONE_PASS, ONE_PASS_METHODS
from s3pet_viz.config.scoring import BATCH_SIZE, ROWS, warm_steps_of
from s3pet_viz.config.tuning import TuneConfig, default_lr
from s3pet_viz.errors import ConfigError, NonFiniteLossError, SpaceError, StructureError
from s3pet_viz.pet import PETs, Space, insert, load_space
from s3pet_viz.structure import Gate, Structure, parse_budget
from s3pet_viz.structure.pins import Pinned
from s3pet_viz.structure.pins import part as part_by_pins
from s3pet_viz.structure.units import nth_units
from s3pet_viz.training.batch_contents import rows_of
from s3pet_viz.training.batches import Features
from s3pet_viz.training.candidates import Candidates
from s3pet_viz.training.fit import fit
from s3pet_viz.training.model_state import left_as_found, raise_precision, reset_head
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.tuning.explain import RowLosses, row_losses
from s3pet_viz.tuning.gradient_scores import MEASURES
from s3pet_viz.tuning.layer_scores import Draw, eva_ratios, gaussian, gora_scores, plop_scores
from s3pet_viz.tuning.workbench import Workbench

Pin: TypeAlias = Mapping[str, Sequence[str]] | None


def one_pass_structure(
    bench: Workbench,
    name: str,
    *,
    budget: str | int | float,
    space: Any = "S3PET-M",
    seed: int = 0,
    pin: Pin = None,
    **options: Any,
) -> Structure:
    """The structure that one-pass scores pick for a budget.

    Args:
        name: one of `ONE_PASS_METHODS`, e.g. ``gradient`` or ``gradient/param``.
        budget: as `OnePassScores.structure`.
        pin: as of `score_rest`.
        space, seed, options: as `one_pass_scores`.

    Returns:
        Its ``source`` holds ``baseline`` (the name), ``seed``, ``task``, and what the scores took: ``rows``,
        ``warm_steps``, ``steps``, ``seconds``.

    Raises:
        ConfigError, BudgetError, SpaceError: before anything is scored. NonFiniteLossError: while scoring.
    """
    kind, per = parse_method(name)
    gates = candidates_of(bench, kind, space).gates
    pinned = parted(kind, gates, pin, parse_budget(budget, bench.backbone.n_params))
    return score_rest(bench, kind, gates, pin, pinned, seed=seed, **options).structure(budget, per)


def parted(kind: str, gates: Sequence[Gate], pin: Pin, budget: int) -> Pinned | None:
    """What pins leave to choose from, at a budget in parameters; None where nothing is pinned.

    Raises:
        BudgetError: below the smallest module. BudgetError, ConfigError: as `structure.pins.part`; ConfigError: a
            method that cannot hold pins.
    """
    if not pin:
        check_size(kind, gates, budget)
        return None
    check_pin(kind, pin)
    return part_by_pins(gates, pin, budget)


def check_pin(kind: str, pin: Pin) -> None:
    """Raises ConfigError: a method that cannot hold pins."""
    if pin and kind == "domlora":
        raise ConfigError("pin: expected no gates pinned with 'domlora', which puts all of the budget into one module")


def score_rest(
    bench: Workbench, kind: str, gates: Sequence[Gate], pin: Pin, pinned: Pinned | None, **options: Any
) -> OnePassScores:
    """`score_gates` of what pins leave, as a search sees it: those in are open beside it, those out are not there.

    Args:
        gates: of the space. pin: as a search's `pin` keeps it. pinned: what it means (`parted`).
    """
    if pinned is None:
        return score_gates(bench, kind, gates, **options)
    made = score_gates(bench, kind, (*pinned.inside, *pinned.gates), **options)  # units pinned in are the first ranks
    n = len(pinned.inside)
    sides: dict[str, Any] = {"pin": pin, "pinned_in": pinned.inside, "pinned_out": pinned.outside}
    return replace(made, gates=made.gates[n:], score=made.score[n:], **sides)


def parse_method(name: str) -> tuple[str, Per]:
    """``fisher/param`` -> (``fisher``, ``param``); without a slash: per gate.

    Raises:
        ConfigError: no method of that name.
    """
    if name not in ONE_PASS_METHODS:
        raise ConfigError(f"method: expected one of {', '.join(ONE_PASS_METHODS)}, found {name!r}")
    return (name.removesuffix("/param"), "param") if name.endswith("/param") else (name, "gate")


def one_pass_scores(
    bench: Workbench, kind: str, *, space: Any = "S3PET-M", seed: int = 0, **options: Any
) -> OnePassScores:
    """Score every gate of a search space, with all of them inserted and open (z = 1).

    - ``gradient``: ``||dL/dw||^2``, the squared norm of the gradient of the mean training loss with respect to the
      weights w of the gate: how fast gradient descent on this gate would lower the loss, to first order. Selection
      of single weights by gradient: Zhang et al. 2023 (arXiv 2312.10136).
    - ``fisher``: the mean over rows of ``||dL_row/dw||^2``, the trace of the gate's block of the empirical Fisher
      information, as in the FISH mask (Sung et al. 2021, arXiv 2111.09839), where it is taken of single weights of the
      backbone. It equals ``gradient`` plus the variance of the row gradients. It takes a pass per row.
    - ``sensitivity``: ``|dL/dz|`` at z = 1, the connection sensitivity of SNIP (Lee et al. 2019, arXiv 1810.02340)
      with gates for connections. Rows are summed before the absolute value: closing a gate changes the mean loss, in
      which rows that it helps and rows that it harms cancel. Deltas of LoRA, BitFit and LNFit are zero at the
      start, and dL/dz with them; so all gates are trained for `warm_steps` first.

    - ``gora``: the mean of ``|W * G|`` over the entries of a linear layer's own weights W, G = dL/dW of the mean
      training loss, as GoRA (arXiv 2502.12171); ``plop``: 1 / NFN, as PLoP (arXiv 2506.20629), which takes forward
      passes alone. Both score layers, not PET modules, and need a space of LoRA alone. See `tuning.layer_scores`.
    - ``domlora``: `gradient` of LoRA modules alone, for DomLoRA (arXiv 2605.06183, as its abstract has it): all of the
      budget goes to one module.
    - ``eva``: of rank k of a linear layer the share of its inputs' variance that their k-th principal component
      explains, as EVA (arXiv 2410.07170) redistributes ranks by it; forward passes alone.

    All but ``gora``, ``plop`` and ``eva`` depend on how a module is written: LoRA's scale of 16 counts 256-fold in a
    squared gradient.

    At the start B of a LoRA is zero and its A has no gradient: its score is that of B alone, though A counts
    in its parameters. An encoder's head is drawn with the seed, as in tuning, and without warm steps the
    gradients reach the gates through that random head.

    Dropout is on in the warm steps, as in tuning, and off when scores are taken. The backbone, its head, its modes and
    torch's random state are left as they were found.

    Args:
        kind: one of `config.names.ONE_PASS`.
        space: a preset, a file, a mapping or a Space, see `pet.load_space`.
        seed: of the initial PET weights, the head, the rows that are scored and the batches of the warm steps.
        options: those of `score_gates` (rows, batch_size, warm_steps, config, draw, progress).

    Raises:
        ConfigError, SpaceError: before any long work. NonFiniteLossError: a loss or a score is NaN or infinite.
    """
    _check_kind(kind)
    return score_gates(bench, kind, candidates_of(bench, kind, space).gates, seed=seed, **options)


def score_gates(
    bench: Workbench,
    kind: str,
    gates: Sequence[Gate],
    *,
    seed: int = 0,
    rows: int | None = None,
    batch_size: int | None = None,
    warm_steps: int | None = None,
    config: TuneConfig | None = None,
    draw: Draw | None = None,
    progress: bool = True,
) -> OnePassScores:
    """`one_pass_scores` of these gates.

    Args:
        rows: at most so many training rows, drawn with the seed; default 2048, 512 for ``fisher``, 256 for ``plop``
            and ``eva``. Of own batches the first ones, by default all; each batch counts as a row does.
        batch_size: rows to a pass; default 32, and 1 for ``fisher``. It is only a matter of speed and memory, but for
            ``fisher``: with b rows to a pass that is the mean of ``||dL_group/dw||^2`` over groups of b (of like
            length), in which the variance of the row gradients counts 1/b; and the draws of ``plop`` come by batch.
        warm_steps: training steps of all gates and the head before the scores are taken, at learning rates that
            decay linearly to 0; default 50 for ``sensitivity``, else 0.
        draw: the Gaussian inputs of ``plop``: (position, shape) -> standard normal draws, shape (batch, tokens, in).
            Default: drawn with the seed.
        config: how they are trained: its lr, head_lr, batch_size and clip. An encoder's pooler stays frozen.

    Raises:
        As `one_pass_scores`; StructureError: a gate is not of this backbone.
    """
    _check_kind(kind)
    most = ROWS[kind] if rows is None else rows
    size = BATCH_SIZE[kind] if batch_size is None else batch_size
    warm = warm_steps_of(kind, warm_steps)
    for what, value, least in (("rows", most, 1), ("batch_size", size, 1), ("warm_steps", warm, 0)):
        whole(what, value, least)
    check_lora(kind, (g.pet_type for g in gates))
    _check_rows(bench, kind)
    started = time.perf_counter()
    backbone, train = bench.backbone, bench.splits.train
    scored: Features | OwnBatches
    if isinstance(train, OwnBatches):
        scored = train.first(rows)
        sizes = [rows_of(batch) or 1 for batch in scored.looked(size, bench.device.torch)]
        count, parts_of = sum(sizes), len(sizes)
    else:
        drawn = np.random.default_rng([seed, 31]).permutation(len(train))[:most]
        scored = train.take(sorted(drawn.tolist()))
        count, parts_of = len(scored), math.ceil(len(scored) / size)
    task = bench.splits.data.task.name
    label = f"{kind} scores on {task}"
    steps = warm + parts_of
    with (
        bench.working(),
        left_as_found(list(backbone.head.values())),
        tqdm(total=steps, desc=label, unit="step", leave=False, disable=not progress) as bar,
    ):
        reset_head(backbone, seed)
        if kind not in MEASURES:
            found = _layer_scores(bench, kind, gates, scored, size, bar.update, draw or gaussian(seed))
        else:
            pets = insert(backbone.model, gates, seed=seed)
            try:
                raise_precision(pets.parameters())
                parts = row_losses(bench, pets, scored, size)
                if warm:
                    _warm(bench, pets, replace(config or TuneConfig(), steps=warm, seed=seed), label, bar.update)
                backbone.model.eval()
                found = MEASURES[kind](pets, [_counted(part, bar.update) for part in parts])
            finally:
                pets.detach()
    if not np.isfinite(found).all():
        gate = gates[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise NonFiniteLossError(f"{label}: the score of {gate.position} {gate.pet_type} is not finite")
    return OnePassScores(
        kind=kind,
        gates=tuple(gates),
        score=found,
        rows=count,
        warm_steps=warm,
        steps=steps,
        seconds=time.perf_counter() - started,
        seed=seed,
        task=task,
        backbone=backbone.name,
        backbone_params=backbone.n_params,
    )


def _layer_scores(
    bench: Workbench, kind: str, gates: Sequence[Gate], features: Any, size: int, tick: Callable[[], Any], draw: Draw
) -> NDArray[np.float64]:
    """The score of each gate's layer, shape (n_gates,)."""
    sites = {p.name: p for p in bench.backbone.positions() if p.kind == "linear"}
    missing = next((g.position for g in gates if g.position not in sites), None)
    if missing is not None:
        raise StructureError(f"structure: this backbone has no position {missing!r}")
    layers: list[Position] = [sites[name] for name in dict.fromkeys(g.position for g in gates)]
    if kind == "eva":
        ratios = dict(zip((p.name for p in layers), eva_ratios(bench, layers, features, size, tick), strict=True))
        return np.array(
            [_explained(g, nth, ratios[g.position]) for g, nth in zip(gates, nth_units(gates), strict=True)]
        )
    made = (
        gora_scores(bench, layers, features, size, tick)
        if kind == "gora"
        else plop_scores(bench, layers, features, size, tick, draw)
    )
    by_name = {layer.name: score for layer, score in zip(layers, made, strict=True)}
    return np.array([by_name[g.position] for g in gates])


def _explained(gate: Gate, nth: int, ratios: NDArray[np.float64]) -> float:
    """By the component of this unit, the nth of its position, or by as many as the rank of a gate that is none."""
    return float(ratios[nth : nth + gate.options.get("r", 1)].sum())


def _counted(part: RowLosses, tick: Callable[[], Any]) -> RowLosses:
    def losses(z: Tensor) -> Tensor:
        made = part(z)
        tick()
        return made

    return losses


def _warm(bench: Workbench, pets: PETs, config: TuneConfig, label: str, tick: Callable[[], Any]) -> None:
    """Train all gates and the head as tuning does, on the batches that a tuning with this seed begins with.

    `training.fit.train` is not called: it scores the validation and the test split.
    """
    backbone = bench.backbone
    lr = config.lr or default_lr(backbone.n_params)
    groups = [(list(pets.parameters()), lr), (list(backbone.head.values()), config.head_lr or lr)]
    fit(
        backbone,
        bench.splits.train,
        groups,
        config,
        bench.device,
        label=f"{label}: warm-up",
        after=lambda step, loss: tick(),
    )


def candidates_of(bench: Workbench, kind: str, space: Any) -> Candidates:
    """What can be chosen of a search space on a workbench's backbone.

    Raises:
        SpaceError: as `pet.load_space`, `pet.candidate_gates` and `check_lora`.
    """
    chosen = load_space(space)
    check_lora(kind, space_types(chosen))
    _check_rows(bench, kind)
    return bench.candidates(chosen)


def space_types(space: Space) -> list[str]:
    return [entry.type for entry in space.entries]


def check_lora(kind: str, types: Iterable[str]) -> None:
    """Refuse PET types that a score of linear layers says nothing of.

    Raises:
        SpaceError: names them, and a space that will do.
    """
    others = dict.fromkeys(t for t in types if t != "LoRA") if kind in LAYER_SCORES else {}
    if others:
        raise SpaceError(
            f"space: method {kind!r} scores linear layers: expected LoRA alone, found {', '.join(others)}; "
            "take a space of LoRA, such as 'S3PET-L'"
        )


def _check_rows(bench: Workbench, kind: str) -> None:
    """Raises ConfigError: a score of tokens, which own batches do not name."""
    if kind in ("plop", "eva") and bench.backbone.form == "own":
        known = ", ".join(name for name in ONE_PASS if name not in ("plop", "eva"))
        raise ConfigError(
            f"method: expected one of {known} with a loss of your own, found {kind!r}, which reads the tokens of rows"
        )


def _check_kind(kind: str) -> None:
    if kind not in ONE_PASS:
        raise ConfigError(f"method: expected one of {', '.join(ONE_PASS)}, found {kind!r}")
