"""Own batches and loss, looked at before long work: that they can be trained on, and what a run keeps of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.own import wrap_own
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.config.checks import short
from s3pet_viz.errors import ConfigError, NonFiniteLossError, RunError, S3PETError, TaskError
from s3pet_viz.runs import Run
from s3pet_viz.training.batch_contents import digest_of, moved
from s3pet_viz.training.device import Device
from s3pet_viz.training.model_state import as_found, left_as_found, set_training
from s3pet_viz.training.own import Own, OwnTask, called
from s3pet_viz.training.own_batches import OwnBatches

#: Rows of a batch on which a score is tried.
_SCORED = 64
#: Relative difference of the first batch's loss from which on a resumed search is another one.
_OTHER = 0.02


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
        functions = {n: called(f) for n in ("loss", "score", "collate") if (f := getattr(self.own, n)) is not None}
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
        known = self.train.probe()[1] is not None
        if (
            known
            and isinstance(before, Real)
            and not math.isclose(before, self.first_loss, rel_tol=_OTHER, abs_tol=1e-6)
        ):
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
                if parts[name].unending:
                    raise TaskError(
                        f"{parts[name].words}: expected max_rows, the rows of one pass, with a stream that may have no "
                        "end (an option of search; load={'max_rows': ...} elsewhere), found none"
                    )
        _warn_of_same(own)
        uncertain = [_first(part) for part in parts.values()]
        loss, changed = _check_loss(made, parts)
    uncertain += [f"a pass changes {changed[0]} of the model"] if changed else []
    if said := "; ".join(filter(None, uncertain)):
        warnings.warn(f"resuming: what is interrupted may go on otherwise: {said}", stacklevel=2)
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
        read = digest_of(first["train"])
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
        if not _reached(tried) & weights.keys():
            raise ConfigError(
                "loss: expected a scalar that follows from the weights of the model it is given, found one that does "
                "not: of another model, or of what the batch holds already"
            )
        if digest_of(first["train"]) != read:
            raise ConfigError(
                "loss: expected it to leave a batch as it is, for it is asked again of the same one; found the first "
                "batch of train= changed in place (work on a copy: tensor.clone())"
            )
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    return float(values["train"]), changed


def _reached(value: Tensor) -> set[int]:
    """The ids of the weights that a tensor follows from."""
    seen, left, found = set(), [value.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found |= {id(weight)} if (weight := getattr(node, "variable", None)) is not None else set()
        left += [after for after, _ in node.next_functions]
    return found


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
