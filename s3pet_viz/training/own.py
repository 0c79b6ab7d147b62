"""Batches and a loss of the user's own in the place of a task: the arguments that say them, and how they score."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.config.checks import short
from s3pet_viz.config.options import with_keywords
from s3pet_viz.errors import ConfigError, NonFiniteLossError
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batch_contents import rows_of
from s3pet_viz.training.device import Device
from s3pet_viz.training.own_batches import OwnBatches

#: What a run is said to be about.
OWN = "own loss"
F = TypeVar("F", bound=Callable[..., Any])


class OwnArguments(TypedDict, total=False):
    """The arguments that make a task of one's own."""

    train: Any
    validation: Any
    test: Any
    loss: Callable[[Any, Any], Any] | None
    score: Callable[[Any, Any], Any] | None
    collate: Callable[[list[Any]], Any] | None


_HINTS = OwnArguments.__annotations__
ARGUMENTS = tuple(_HINTS)
#: Options that only rows of a task have, and what is in their place.
_OF_TASKS = {
    **dict.fromkeys(
        ("task", "tasks", "name", "task_spec", "task_revision", "split"), "train= and validation= are the data"
    ),
    **dict.fromkeys(
        ("backbone", "revision", "dtype", "device_map", "tokenizer"), "model= is what loss= is called with"
    ),
    "max_source_length": "cut texts where the batches are made",
    "accumulation": "a loss may depend on the whole batch; give smaller batches",
    "train_pooler": "head= names what is trained beside the gates",
    **dict.fromkeys(("executor", "workers"), "what is in memory cannot travel, so all cells run here"),
}
_USUAL = (("split", "paper"), ("accumulation", 1))
_OF_ROWS = dict.fromkeys(("batch_size", "eval_batch_size"), "the batches are given; collate= makes them of rows")


def takes_own(*without: str) -> Callable[[F], F]:
    """Decorator: the signature names what the function takes of `OwnArguments` as keywords."""
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in _HINTS.items()
        if name not in without
    ]
    return lambda function: with_keywords(function, shown)


@dataclass(frozen=True, eq=False)
class Own:
    """What a user gave in the place of a task: see `search`. Nothing of it is read yet."""

    train: Any
    validation: Any
    loss: Callable[[Any, Any], Tensor]
    test: Any = None
    score: Callable[[Any, Any], Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """As `of` takes them."""
        return {name: getattr(self, name) for name in ARGUMENTS}

    @property
    def name(self) -> str:
        """What a run is called by: the loss's own name."""
        named = called(self.loss).rpartition(".")[2]
        return f"{OWN} {named}" if named.isidentifier() and named != "loss" else OWN

    @classmethod
    def of(cls, given: Mapping[str, Any], *, model: Any, others: Mapping[str, Any]) -> Own | None:
        """Of the arguments of a function that users call; None where none of them is there.

        Args:
            given: `ARGUMENTS`. others: what else was given, by name.

        Raises:
            ConfigError: something is missing, of the wrong kind, or belongs to a task.
        """
        asked = [name for name in ARGUMENTS if given.get(name) is not None]
        if not asked:
            return None
        if any(others.get(name) is not None for name in ("task", "tasks")):
            raise ConfigError(f"{asked[0]}: expected a task, or batches and a loss of your own, found both")
        for name in ("loss", "train", "validation"):
            if name not in asked:
                raise ConfigError(
                    f"{name}: expected {_KINDS[name]} beside {asked[0]}=, found none (rows of a task in memory go in "
                    "task={'train': ..., 'validation': ...})"
                )
        if model is None:
            raise ConfigError("model: expected the model that loss= is of, found none; it has to be in memory")
        rows = "collate" in asked
        out_of_place = _OF_TASKS | ({} if rows else _OF_ROWS)
        for name, value in others.items():
            if name in out_of_place and value not in (None, False) and (name, value) not in _USUAL:
                found = f"expected none with a loss of your own, found {short(value)}"
                raise ConfigError(f"{name}: {found}; {out_of_place[name]}")
        for name in asked:
            if name in ("train", "validation", "test"):
                _check_source(name, given[name], rows)
            else:
                _check_function(name, given[name])
        made: dict[str, Any] = {name: given.get(name) for name in ARGUMENTS}
        return cls(**made)


@dataclass(frozen=True, eq=False)
class OwnTask:
    """A task as far as batches and a loss say what it is; takes the place of `tasks.Task`.

    Attributes:
        score: makes the metrics; None: the score is minus the loss.
    """

    name: str
    score: Callable[[Any, Any], Any] | None = None
    kind: str = "own"
    label_names: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("minus the loss",) if self.score is None else (called(self.score),)

    def scored(self, model: Any, batches: Any, loss: float) -> dict[str, float]:
        """``score``, the main metric (the one of this name, else the first), and the others.

        Raises:
            ConfigError: `score` makes no numbers. NonFiniteLossError: one is NaN or infinite.
        """
        if self.score is None:
            return {"score": -loss}
        made = self.score(model, batches)
        named = dict(made) if isinstance(made, Mapping) else {"score": made}
        if not named or "loss" in named:
            raise ConfigError(f"score: expected a number, or names other than 'loss' with numbers, found {short(made)}")
        found = {}
        for name, value in named.items():
            single = isinstance(value, Tensor) and value.numel() == 1
            if not isinstance(name, str) or not (single or hasattr(value, "__float__")):
                raise ConfigError(f"score: expected a number, or a mapping of names to numbers, found {short(made)}")
            found[name] = float(value)
            if not math.isfinite(found[name]):
                raise NonFiniteLossError(f"score: {name} is {found[name]}")
        return {"score": next(iter(found.values())), **found}


_KINDS = {
    "loss": "a function loss(model, batch)",
    "score": "a function score(model, batches)",
    "collate": "a function that makes a batch of a list of rows",
    "train": "an iterable of batches that can be read again, or a function that makes one",
}
_KINDS["validation"] = _KINDS["train"]


def _check_function(name: str, given: Any) -> None:
    """Raises ConfigError: it cannot be called, or has weights that nothing would train."""
    if not callable(given) or isinstance(given, type):
        raise ConfigError(f"{name}: expected {_KINDS[name]}, found {short(given)}")
    if isinstance(given, nn.Module) and any(p.requires_grad for p in given.parameters()):
        raise ConfigError(
            f"{name}: expected a function, or a module without weights of its own, found {type(given).__name__} with "
            "some; make them a part of the model, and name it in head="
        )


def _check_source(name: str, given: Any, rows: bool) -> None:
    """Raises ConfigError: nothing that gives batches (`rows`: with a collate function) as often as it is asked."""
    wanted = f"{name}: expected {_KINDS['train']}, found"
    if isinstance(given, (str, bytes, Mapping, Tensor, nn.Module, type)) or hasattr(given, "__array__"):
        raise ConfigError(f"{wanted} {short(given) if isinstance(given, (str, bytes, type)) else type(given).__name__}")
    of_datasets = type(given).__module__.partition(".")[0] == "datasets"
    listed = isinstance(given, Dataset) and not isinstance(given, IterableDataset)
    if not rows and (of_datasets or listed):
        raise ConfigError(
            f"{name}: expected batches, found a {type(given).__name__} of rows; give collate= (a data collator of "
            "transformers, torch's default_collate, ...), or a DataLoader of it"
        )
    if rows and isinstance(given, DataLoader):
        raise ConfigError(f"collate: expected none with a DataLoader ({name}=), which has its own")
    if listed or (rows and hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        return
    if not isinstance(given, Iterable) and callable(given):
        try:
            inspect.signature(given).bind()
        except TypeError:
            raise ConfigError(f"{name}: expected a function without arguments that gives batches") from None
        except ValueError:  # of one that is not Python's
            pass
        return
    try:
        once = iter(given) is given
    except TypeError:
        raise ConfigError(f"{wanted} {short(given)}") from None
    if once:
        raise ConfigError(
            f"{name}: expected batches that can be read again, found a {type(given).__name__}, which can be read once; "
            "give the function that makes it (train=make, not train=make())"
        )


def called(function: Any) -> str:
    """Where a function comes from, as far as that can be said."""
    function = getattr(function, "func", function)  # functools.partial
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def evaluate_own(
    backbone: Backbone,
    task: OwnTask,
    batches: OwnBatches,
    *,
    batch_size: int,
    metrics: bool,
    autocast: Callable[[], Any],
) -> dict[str, float]:
    """``loss``, the mean over batches, each counting by its rows; and the metrics of `Own.score`.

    Raises:
        NonFiniteLossError: a loss or a metric is NaN or infinite.
    """
    looks = batches.looked(batch_size, computes_on(backbone.model))
    total, weight = 0.0, 0
    for k, batch in enumerate(looks):
        with LOCK, seeded(k), autocast():
            value = float(backbone.loss(batch))
        size = rows_of(batch) or 1
        total, weight = total + value * size, weight + size
    loss = total / weight
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"evaluation of {task.name}: loss is {loss}")
    if not metrics:
        return {"loss": loss}
    with seeded(0), autocast():
        return {**task.scored(backbone.model, looks, loss), "loss": loss}


def own_row_losses(
    backbone: Backbone, batches: OwnBatches, batch_size: int, held: Callable[[Tensor], Any], device: Device
) -> list[Callable[[Tensor], Tensor]]:
    """The loss of every batch, in the place of every row's, as a function of the gates; each of shape (1,).

    Args:
        held: a context in which the gates are these.
    """
    looks = batches.looked(batch_size, device.torch)

    def part(k: int) -> Callable[[Tensor], Tensor]:
        def losses(z: Tensor) -> Tensor:
            batch = looks.at(k)
            with LOCK, seeded(k), device.autocast(), held(z):
                made = backbone.loss(batch)
            return made.to(torch.promote_types(made.dtype, torch.float32)).reshape(1)

        return losses

    return [part(k) for k in range(looks.count())]
