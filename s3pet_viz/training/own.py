"""Batches and a loss of the user's own in the place of a task: the checks, what a run keeps of them, how they score."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.own import wrap_own
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.config.checks import short
from s3pet_viz.errors import ConfigError, NonFiniteLossError, RunError, S3PETError, TaskError
from s3pet_viz.runs import Run
from s3pet_viz.threads import LOCK
from s3pet_viz.training.device import Device
from s3pet_viz.training.model_state import as_found, left_as_found, set_training
from s3pet_viz.training.own_batches import OwnBatches, moved, rows_of

#: What a run is said to be about.
OWN = "own loss"
#: The arguments that make a task of one's own.
ARGUMENTS = ("train", "validation", "test", "loss", "score", "collate")
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
#: Rows of a batch on which a score is tried.
_SCORED = 64
#: Relative difference of the first batch's loss from which on a resumed search is another one.
_OTHER = 0.02


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
        named = _named(self.loss).rpartition(".")[2]
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
        return ("minus the loss",) if self.score is None else (_named(self.score),)

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
            f"{name}: expected a function, or a module without weights of its own, found {type(given).__name__} with some; "
            "make them a part of the model, and name it in head="
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


def _named(function: Any) -> str:
    """Where a function comes from, as far as that can be said."""
    function = getattr(function, "func", function)  # functools.partial
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


@dataclass(frozen=True, eq=False)
class OwnData:
    """Own batches, looked at; takes the place of `tasks.TaskData`.

    Attributes:
        test: None: validation is scored.
        first_loss: of the first training batch, before anything was trained.
        uncertain: why a resumed search may differ from one that was never interrupted; "" where it will not.
    """

    own: Own
    task: OwnTask
    train: OwnBatches
    validation: OwnBatches
    test: OwnBatches | None
    first_loss: float
    uncertain: str
    head: tuple[str, ...] = ()
    origin: str = "memory"
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        words = {name: part.words.partition(": ")[2] for name, part in self.parts.items()}
        words.setdefault("test", "none: validation is scored")
        functions = {n: _named(f) for n in ("loss", "score", "collate") if (f := getattr(self.own, n)) is not None}
        facts = {**words, **functions, "head": list(self.head), "first_loss": self.first_loss}
        object.__setattr__(self, "facts", facts | {"resumes": self.uncertain or "bit for bit"})

    @property
    def parts(self) -> dict[str, OwnBatches]:
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def deciding(self) -> str:
        """What chooses the best weights, in words."""
        scored = "" if self.test is not None else ", which are scored too: no test= was given"
        return f"{self.validation.words}{scored}"

    def check_resumed(self, started: Run) -> None:
        """Raises RunError: the loss of the first batch is not what it was when the search began."""
        before = (started.info.get("own") or {}).get("first_loss")
        if isinstance(before, Real) and not math.isclose(before, self.first_loss, rel_tol=_OTHER, abs_tol=1e-6):
            raise RunError(
                f"{started.path}: the loss of the first training batch was {before:.6g} when the search began, and is "
                f"{self.first_loss:.6g} now; a search resumes only with the same loss, batches and model"
            )


def refuse_missing(started: Run | None, own: Own | None) -> None:
    """A search of own batches is resumed with them, and no other is.

    Raises:
        RunError: they are missing, or the run has a task.
    """
    said = None if started is None else started.info.get("own")
    if started is not None and isinstance(said, Mapping) and own is None:
        raise RunError(f"{started.path}: {needed(said)}")
    if started is not None and not isinstance(said, Mapping) and own is not None:
        raise RunError(
            f"{started.path}: expected no loss of your own, for the search is of task {started.config.get('task')}"
        )


def needed(said: Mapping[str, Any]) -> str:
    """That a run's loss and batches have to be given again, and which they were."""
    were = ", ".join(f"{name} {said[name]}" for name in ("loss", "train", "validation") if name in said)
    return (
        "expected model=, loss=, train= and validation= as the search was given them, for no file keeps functions and "
        f"batches (they were: {were})"
    )


# -- loading -------------------------------------------------------------------------------------------------


def load_own(
    own: Own, model: Any, *, head: Any = "auto", family: Any = None, max_rows: Any = None, scored: bool = False
) -> tuple[Backbone, OwnData]:
    """A model and own batches, looked at: the first batches are read, and the loss is taken of them.

    Args:
        max_rows: of each part, or by its name. scored: `Own.score` is tried on a batch too.

    Raises:
        BackboneError, ConfigError: as `wrap_own`, or a loss that cannot be trained on. TaskError: no batches.
        NonFiniteLossError: the first loss is NaN or infinite.
    """
    rows = max_rows if isinstance(max_rows, Mapping) else dict.fromkeys(("train", "validation", "test"), max_rows)
    with as_found(model) if isinstance(model, nn.Module) else nullcontext():
        made = wrap_own(model, own.loss, head=head, family=family)
        parts = {}
        for name in ("train", "validation", "test"):
            if (given := getattr(own, name)) is not None:
                parts[name] = OwnBatches(name, given, own.collate, rows.get(name))
        _warn_of_same(own)
        uncertain = [_first(part) for part in parts.values()]
        loss, changed = _check_loss(made, parts)
    uncertain += [f"a pass changes {changed[0]} of the model"] if changed else []
    if said := "; ".join(filter(None, uncertain)):
        warnings.warn(f"resuming: a search that is interrupted may go on otherwise: {said}", stacklevel=2)
    data = OwnData(
        own,
        OwnTask(own.name, own.score),
        parts["train"],
        parts["validation"],
        parts.get("test"),
        loss,
        said,
        tuple(made.head),
    )
    if scored and own.score is not None:
        _check_score(made, data)
    return made, data


def _warn_of_same(own: Own) -> None:
    pairs = (
        ("validation", "train", "alpha and the best weights follow rows that are trained on"),
        ("test", "validation", "what is scored has chosen the best weights"),
        ("test", "train", "rows that are trained on are scored"),
    )
    for name, other, so in pairs:
        a, b = getattr(own, name), getattr(own, other)
        inside = [getattr(x, "dataset", None) for x in (a, b)]
        if a is not None and (a is b or (inside[0] is not None and inside[0] is inside[1])):
            warnings.warn(f"{name}: the same as {other}: {so}", stacklevel=4)


def _first(part: OwnBatches) -> str:
    """Look at the first batch; why it may be another one next time.

    Raises:
        TaskError: there is none, it cannot be read, or it holds nothing that a model reads.
    """
    try:
        batch, digest = part.probe()
    except S3PETError:
        raise
    except Exception as error:  # a loader, a collator: any code of the user's
        raise TaskError(
            f"{part.words}: its first batch cannot be read ({type(error).__name__}: {_line(error)})"
        ) from error
    readable = isinstance(batch, (Tensor, Mapping, list, tuple)) or hasattr(batch, "to") or hasattr(batch, "__array__")
    if not readable or (isinstance(batch, (Mapping, list, tuple)) and not batch):
        raise TaskError(
            f"{part.words}: expected batches of tensors (nested in mappings, lists and tuples, or an object with "
            f".to()), found {short(batch)}"
        )
    return "" if digest is not None else f"two readings of {part.name}= began with other batches"


def _check_loss(backbone: Backbone, parts: Mapping[str, OwnBatches]) -> tuple[float, list[str]]:
    """The loss of the first training batch, and the names of buffers that a pass changes.

    Raises:
        ConfigError: it fails, is no scalar, or has no gradient. NonFiniteLossError: it is NaN or infinite.
    """
    model = backbone.model
    place = computes_on(model)
    device = Device(place).suited(model)
    with left_as_found(list(model.buffers())):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        first = {name: moved(part.probe()[0], place) for name, part in parts.items()}
        with torch.no_grad():
            values = {name: _tried(backbone, batch, device, f"{name}=") for name, batch in first.items()}
        for name, value in values.items():
            if not torch.isfinite(value):
                raise NonFiniteLossError(
                    f"loss: expected a finite number on the first batch of {name}=, found {value:g}"
                )
        weights = {id(w): w for p in backbone.positions() for w in p.target.parameters()} | {
            id(w): w for w in backbone.head.values()
        }
        for weight in weights.values():
            weight.requires_grad_(True)
        set_training(model)
        with torch.enable_grad():
            tried = _tried(backbone, first["train"], device, "train=")
        if not tried.requires_grad:
            raise ConfigError(
                "loss: expected a scalar with a gradient, found one without (of .item(), .detach(), numpy or no_grad, "
                "or of another model than the one it is given)"
            )
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    return float(values["train"]), changed


def _tried(backbone: Backbone, batch: Any, device: Device, where: str) -> Tensor:
    try:
        with seeded(0), device.autocast():
            return backbone.loss(batch)
    except S3PETError:
        raise
    except Exception as error:
        raise ConfigError(f"loss: the first batch of {where} ends in {type(error).__name__}: {_line(error)}") from error


def _check_score(backbone: Backbone, data: OwnData) -> None:
    """Raises ConfigError: it fails, or makes no numbers, of all batches (a metric may be undefined on one alone)."""
    model = backbone.model
    looks = (data.test or data.validation).looked(_SCORED, computes_on(model))
    device = Device(computes_on(model)).suited(model)
    for batches in ([looks.at(0)], looks):
        try:
            with as_found(model), torch.no_grad(), seeded(0), device.autocast():
                model.eval()
                data.task.scored(model, batches, 0.0)
            return
        except Exception as error:
            found = error
    if isinstance(found, S3PETError):
        raise found
    raise ConfigError(f"score: ends in {type(found).__name__}: {_line(found)}") from found


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


# -- evaluating ----------------------------------------------------------------------------------------------


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
