"""A backbone and a task, loaded once, on which structures are trained in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.placed import is_placed, stays
from s3pet_viz.backbones.quantised import need_plain
from s3pet_viz.config.tuning import TuneConfig, default_full_lr, default_lr
from s3pet_viz.errors import ConfigError, StructureError
from s3pet_viz.export import Adapter
from s3pet_viz.pet import PETs, Space, insert
from s3pet_viz.structure import Structure
from s3pet_viz.training.candidates import Candidates
from s3pet_viz.training.device import Device
from s3pet_viz.training.fit import Splits, train
from s3pet_viz.training.model_state import at_work, left_as_found, pooler_of, raise_precision, reset_head
from s3pet_viz.training.pair import load_pair
from s3pet_viz.training.scores import Scores
from s3pet_viz.tuning.adalora import AdaLoRA
from s3pet_viz.tuning.baselines import OTHERS


@dataclass
class Workbench:
    """A backbone and a task's splits, loaded once, on which many structures can be trained in turn.

    Every `run` leaves the backbone (and its head) as it found it; runs from several threads wait for each other.
    """

    backbone: Backbone
    splits: Splits
    device: Device

    @classmethod
    def open(
        cls,
        task: Any,
        backbone: str | Path | None = None,
        *,
        model: nn.Module | None = None,
        tokenizer: Any = None,
        device: str = "auto",
        precision: str = "fp32",
        max_source_length: int | None = None,
        **task_options: Any,
    ) -> Workbench:
        """Load task and backbone. Options beside these go to `tasks.load_task` (split, revision, ...).

        Raises:
            TaskError, BackboneError, ConfigError: before any long work.
        """
        place = Device.choose(device, precision)
        made, data = load_pair(task, backbone, model=model, tokenizer=tokenizer, scored=True, **task_options)
        if model is None and not stays(made.model):
            made.model.to(place.torch)  # the caller's own goes there for each piece of work, see `working`
        return cls(made, Splits.make(data, made, max_source_length), place.suited(made.model))

    def working(self) -> AbstractContextManager[None]:
        """Inside, the backbone is ready to be read; afterwards it is as it was found."""
        return at_work(self.backbone, self.device)

    def candidates(self, space: Space) -> Candidates:
        """What can be chosen of a space here. Raises SpaceError: as `pet.candidate_gates`."""
        return Candidates.of(self.backbone, space, self.splits.train, self.device)

    def run(self, method: str | Structure | AdaLoRA, config: TuneConfig, **how: Any) -> Scores:
        """Train a structure (or ``full``, ``head``, ``untouched``, an `AdaLoRA`) and score it; `how` as in `tuned`."""
        with self.tuned(method, config, **how) as (scores, _):
            return scores

    @contextmanager
    def tuned(
        self,
        method: str | Structure | AdaLoRA,
        config: TuneConfig,
        *,
        label: str | None = None,
        progress: bool = True,
        on_step: Callable[[int, float], None] | None = None,
        test: bool = True,
    ) -> Iterator[tuple[Scores, PETs | None]]:
        """As `run`, with the best weights still in place inside the context: the scores (without `test`: none on the
        test split), and a structure's PET modules (frozen, attached; None for the other methods).
        """
        backbone = self.backbone
        structure = method if isinstance(method, Structure) else None
        grown = method if isinstance(method, AdaLoRA) else None
        name = label or ("structure" if structure is not None else str(method))
        if structure is None and grown is None and method not in OTHERS:
            raise ConfigError(f"method: expected a Structure or one of {', '.join(OTHERS)}, found {method!r}")
        if method == "head" and not backbone.head:
            raise ConfigError("method: 'head' needs a classification head; a language model has no head of its own")
        if structure is not None and not structure.gates:
            raise StructureError("structure: expected at least one gate, found none")
        full = backbone.body if method == "full" else []
        pooler = pooler_of(backbone) if backbone.form == "pair" else []
        extra = pooler if config.train_pooler and method not in ("full", "untouched") else []
        if (full or extra or grown) and is_placed(backbone.model):
            raise ConfigError(f"device_map: expected a method that leaves the backbone frozen, found {name!r}")
        if full or extra or grown:
            need_plain(f"method {name!r}", backbone.model)
        head = list(backbone.head.values()) if method != "untouched" else []
        with self.working(), left_as_found([*full, *head, *extra]):
            raise_precision([*full, *extra])
            if method != "untouched":
                reset_head(backbone, config.seed)
            pets = insert(backbone.model, structure.gates, seed=config.seed) if structure else None
            try:
                raise_precision(pets.parameters() if pets is not None else ())
                full_lr = config.full_lr or default_full_lr(backbone.n_params)
                lr = full_lr if full else config.lr or default_lr(backbone.n_params)
                inserted = [] if pets is None else list(pets.parameters())
                if grown is not None:
                    inserted = grown.attach(backbone.model, config.seed)
                    raise_precision(inserted)
                trained = [*head, *extra]
                groups = [([*full, *inserted], lr), (trained, config.head_lr or lr)]
                result = train(
                    backbone,
                    self.splits,
                    [(weights, rate) for weights, rate in groups if weights],
                    config,
                    self.device,
                    label=f"{name} on {self.splits.data.task.name}",
                    progress=progress,
                    on_step=on_step,
                    stepped=None if grown is None else grown.stepped,
                    since=0 if grown is None else grown.since,
                    test=test,
                )
                structure = structure if grown is None else grown.structure
                scores = Scores(
                    method=name,
                    task=self.splits.data.task.name,
                    backbone=backbone.name,
                    metrics=result.test,
                    validation=result.validation,
                    pet_params=sum(p.numel() for p in full) if full else structure.n_params if structure else 0,
                    head_params=sum(p.numel() for p in trained),
                    backbone_params=backbone.n_params,
                    seed=config.seed,
                    steps=config.steps if result.best_step else 0,
                    best_step=result.best_step,
                    seconds=result.seconds,
                    steps_taken=result.steps_taken,
                    cap_reached=result.cap_reached,
                    learned=result.learned,
                    decided_on=self.splits.decided_on,
                    n_gates=len(structure) if structure else 0,
                    pooler="" if not pooler else "trained" if extra or full else "frozen",
                    history=result.history,
                    structure=structure,
                )
                yield scores, pets
            finally:
                if pets is not None:
                    pets.detach()

    def adapter(
        self, structure: Structure, pets: PETs, scores: Scores, config: TuneConfig, revision: str | None = None
    ) -> Adapter:
        """A copy of what was trained, to be taken inside `tuned`: PET weights, and an encoder's head and pooler."""
        task = self.splits.data.task
        pooler = pooler_of(self.backbone) if config.train_pooler and self.backbone.form == "pair" else []
        return Adapter.of(
            self.backbone,
            structure,
            pets,
            head=[*self.backbone.head.values(), *pooler],
            task=task.name,
            labels=task.label_names,
            scores=scores.metrics,
            revision=revision,
        )
