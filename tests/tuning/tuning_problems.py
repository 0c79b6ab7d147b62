"""A task that tiny random models learn in seconds, opened on a workbench."""

from __future__ import annotations

from problems import MOOD, mood_data, tiny_model, tokenizer_of

from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates
from s3pet_viz.structure import Structure
from s3pet_viz.tuning import Workbench

BIASES = Space("biases", (SpaceEntry("LoRA", ("SelfAttn.Q", "SelfAttn.V")), SpaceEntry("BitFit", ("*.LN", "FFN.W2"))))
FAST = {"steps": 6, "batch_size": 8, "evaluations": 2, "lr": 1e-2}


def bench(form: str, **changes) -> Workbench:
    """Of one layer (of each stack), which has all that a second would have."""
    model = tiny_model(form, **{"layers": 1, **changes})
    return Workbench.open(mood_data(), model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu")


def structure_for(form: str, space: Space = BIASES, layers: int = 1) -> Structure:
    return Structure(tuple(candidate_gates(positions(tiny_model(form, layers=layers)), space)[0]), form, 1)


def run(wb: Workbench, method, **options):
    return wb.run(method, TuneConfig(**{**FAST, **options}), progress=False)
