"""Search and train in one go: the weights that a prune search trained at its final structure, kept and scored."""

from __future__ import annotations

import torch

from s3pet_viz.analysis.learned import is_learned
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.prepare import Prepared
from s3pet_viz.errors import S3PETError
from s3pet_viz.export import Adapter
from s3pet_viz.export.folder import check_free_folder
from s3pet_viz.pet import PETs
from s3pet_viz.runs import Run, layout
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.fit import Splits
from s3pet_viz.training.model_state import pooler_of
from s3pet_viz.training.scores import Scores

#: `Scores.method` of what a search trained itself.
METHOD = "one go"


def check_save(config: SearchConfig, started: Run | None) -> None:
    """Before anything is loaded: the folder can take the adapter. Raises ConfigError: it cannot.

    A resumed search may find what it has written there before it was killed.
    """
    if config.save is not None:
        own = started is not None and _holds_own(config.save, started)
        check_free_folder(config.save, own, advice="give another one")


def _holds_own(folder: str, run: Run) -> bool:
    """Whether an adapter is there that this run, at its end, has written: its structure, of the same origin."""
    if not (run.path / layout.STRUCTURE).exists():  # it comes first
        return False
    try:
        there, own = Adapter.from_pretrained(folder).structure, run.structure()
    except S3PETError:
        return False
    return there == own and dict(there.source) == dict(own.source)


def hand_out(prepared: Prepared, pets: PETs, run: Run) -> Scores:
    """Keep the weights of the chosen gates (and an encoder's head) in ``config.save``, scored as `tuning.tune` scores.

    Args:
        pets: of every gate, attached.
        run: the search, its structure written.

    Returns:
        of the last weights; ``seconds`` are those of all steps.
    """
    config, backbone, data = prepared.config, prepared.backbone, prepared.data
    structure = run.structure()
    save, own = config.save or "", prepared.resumed and _holds_own(config.save or "", run)
    check_free_folder(save, own, advice=f"the search is whole: empty it, then resume {run.path}")
    chosen = {g.index for g in structure.gates}
    pets.closed = frozenset(range(len(pets))) - chosen
    z = torch.tensor([float(i in chosen) for i in range(len(pets))])
    metrics, splits = {}, Splits.make(data, backbone, config.max_source_length)
    with pets.gated(z.to(next(pets.parameters()))):
        for name, rows in splits.held_out.items():
            metrics[name] = evaluate(backbone, data.task, rows, autocast=prepared.device.autocast)
    head = list(backbone.head.values())
    adapter = Adapter.of(
        backbone,
        structure,
        pets,
        head=head,
        task=data.task.name,
        labels=data.task.label_names,
        scores=metrics["test"],
        revision=config.revision,
    ).only(structure.gates)
    adapter.save_pretrained(save, overwrite=own)
    return Scores(
        method=METHOD,
        task=data.task.name,
        backbone=backbone.name,
        metrics=metrics["test"],
        validation=metrics["validation"],
        pet_params=structure.n_params,
        head_params=sum(p.numel() for p in head),
        backbone_params=backbone.n_params,
        seed=config.seed,
        steps=config.steps,
        best_step=run.n_steps,
        steps_taken=run.n_steps,
        learned=is_learned(metrics["validation"]["loss"], splits.validation.constant_loss() or None),
        seconds=float(run.steps()["seconds"].sum()),
        n_gates=len(structure),
        structure=structure,
        pooler="frozen" if backbone.form == "pair" and pooler_of(backbone) else "",
    )
