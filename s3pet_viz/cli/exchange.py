"""``s3pet import`` and ``s3pet export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError, StructureError
from s3pet_viz.files import read_text

if TYPE_CHECKING:
    from s3pet_viz.structure import Structure


Source = Annotated[str, typer.Argument(metavar="FILE", help="S3Delta's JSON, or final_alphas.txt.", show_default=False)]
T5 = Annotated[str | None, c.option("The T5 it is for (t5-large, tiny-t5, ...): tells the sizes of the gates.")]
RunOption = Annotated[str | None, c.option("Match positions with the search space of this run (JSON only).")]
ImportBudget = Annotated[str | None, c.option("Solve the alphas at this budget: 0.1%, 1e-3 or 8404 (alphas only).")]
ImportOut = Annotated[Path, typer.Option(help="The structure file to write.")]

Target = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="An adapter's folder or hub name (owner/name), a run folder, a recorded run's name, or a structure file.",
        show_default=False,
    ),
]
To = Annotated[
    Literal["peft", "merged", "s3delta", "adapter", "peft-json", "trl", "axolotl", "llama-factory"],
    typer.Option(
        help="peft: a PEFT adapter folder (of a structure alone, its config). merged: a plain transformers model. "
        "s3delta: the published implementation's JSON. adapter: this package's own folder. To paste, of the structure "
        "alone: peft-json, trl (Python), axolotl and llama-factory (YAML).",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="The folder to write; the file, where it is one.", show_default=False)]
Alpha = Annotated[float | None, c.option("In PEFT, instead of the gates' own lora_alpha (of a structure alone).")]
Dropout = Annotated[float, typer.Option(help="In PEFT, of LoRA layers in training.")]
Backbone = Annotated[str | None, c.option(f"{c.BACKBONE_HELP} [default: the source's]")]
Budget = Annotated[str | None, c.option("Take the structure that the run gives at this budget.")]
Partial = Annotated[bool, typer.Option("--partial", help="Leave out what PEFT cannot hold, and list it.")]
AnyWeights = Annotated[
    bool, typer.Option("--any-weights", help="Accept a backbone of the same shape with other weights.")
]
#: What is one file, and how its name ends; all but the first come from PEFT's form.
_FILES = {"s3delta": ".json", "peft-json": ".json", "trl": ".py", "axolotl": ".yaml", "llama-factory": ".yaml"}
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists; write into a folder with files.")]


def import_(
    source: Source,
    out: ImportOut = Path("structure.json"),
    backbone: T5 = None,
    run: RunOption = None,
    budget: ImportBudget = None,
    force: c.Force = False,
) -> None:
    """Turn a result of the published implementation (thunlp/S3Delta) into a structure file."""
    from s3pet_viz.cli import _output as o

    c.check_free(out, ending=".json", force=force)
    structure = _published(source, backbone, run, budget)
    if any(g.n_params < 1 for g in structure.gates):
        raise ConfigError(f"{source}: the sizes of its gates are not known: give --backbone (t5-large, ...) or --run")
    c.say(o.facts_table({"from": source, "backbone": structure.backbone or None, **o.structure_facts(structure)}))
    c.save_json(out, structure.to_dict(), force)
    c.say(f"structure: {out}")


def _published(source: str, backbone: str | None, run: str | None, budget: str | None) -> Structure:
    from dataclasses import replace

    from s3pet_viz.sources import RUN, open_source
    from s3pet_viz.structure import from_s3delta, read_final_alphas

    if read_text(source, StructureError).lstrip()[:1] == "=":
        if run is not None:
            raise ConfigError("run: final_alphas.txt names whole positions; --run is for JSON")
        return read_final_alphas(source, backbone).structure(budget)
    if budget is not None:
        raise ConfigError("budget: only final_alphas.txt can be solved at another budget; the JSON holds no alphas")
    if run is None:
        return from_s3delta(source, backbone=backbone)
    if backbone is not None:
        raise ConfigError("backbone: give either --backbone or --run")
    opened = open_source(run, allow=RUN, what="run")
    made = from_s3delta(source, gates=opened.gates_list)
    return replace(made, backbone=opened.info["backbone"], backbone_params=opened.info["backbone_params"])


def export(
    source: Target,
    to: To,
    out: Out,
    backbone: Backbone = None,
    budget: Budget = None,
    partial: Partial = False,
    any_weights: AnyWeights = False,
    lora_alpha: Alpha = None,
    lora_dropout: Dropout = 0.0,
    force: Force = False,
) -> None:
    """Write a structure or a trained adapter in another form: PEFT, a training tool's config, a plain model, S3Delta's
    JSON.

    Trained weights come from `s3pet tune ... --save FOLDER`.
    """
    from s3pet_viz.cli import _output as o

    if to in _FILES:
        c.check_free(out, ending=_FILES[to], force=force)
    else:
        from s3pet_viz.export.folder import check_free_folder

        check_free_folder(out, force)
    through_peft = to == "peft" or (to in _FILES and to != "s3delta")
    for name, given_ in (("partial", partial), ("lora_alpha", lora_alpha), ("lora_dropout", lora_dropout)):
        if given_ and not through_peft:
            raise ConfigError(f"{name}: is for --to peft and the training tools; --to {to} does not take it")
    from s3pet_viz.export.host import read_source
    from s3pet_viz.structure import Structure, to_s3delta

    given = read_source(source, budget=budget, backbone=backbone)
    adapter = None if isinstance(given, Structure) else given
    structure = given if isinstance(given, Structure) else given.structure
    if adapter is None and to in ("merged", "adapter"):
        hint = f"s3pet tune {c.quoted(source)} --save FOLDER"
        raise ConfigError(f"{source}: --to {to} needs trained weights, which come from: {hint}")
    facts: dict[str, object] = {"from": source, **o.structure_facts(structure)}

    if to == "s3delta":
        c.save_json(out, to_s3delta(structure), force)
    elif through_peft:
        from s3pet_viz.export import to_peft, training_config

        options: dict[str, Any] = {"partial": partial, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        if to == "peft":
            made = to_peft(given, backbone, folder=out, overwrite=force, any_weights=any_weights, **options)
        else:
            made = to_peft(structure, backbone, **options)
            c.save_text(out, training_config(made, to), force)
        facts |= {"held": f"{len(made.held)} of {len(structure)} gates in a {type(made.config).__name__}"}
        facts |= {"weights": "none: the config alone" if adapter is None or to != "peft" else None}
        facts |= {"loaded back": None if made.gap is None else f"logits within {made.gap:.1e} of the adapter's"}
        for gate, reason in made.dropped.items():
            c.complain("left out", f"{gate.position} {gate.pet_type}: {reason}")
        for note in made.notes:
            c.complain("note", note)
    elif to == "merged":
        from s3pet_viz.export import merge

        merge(given, backbone, folder=out, overwrite=force, any_weights=any_weights)  # type: ignore[arg-type]
        facts |= {"loaded back": "by transformers; logits are the adapter's"}
    elif adapter is not None:
        adapter.save_pretrained(out, overwrite=force)
    c.say(o.facts_table(facts))
    c.say(f"{to}: {out}")
