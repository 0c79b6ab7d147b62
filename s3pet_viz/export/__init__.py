"""Trained structures on their way out: an adapter folder, PEFT, plain weights of a merged backbone."""

from s3pet_viz.export.adapter import Adapter, Attached
from s3pet_viz.export.merging import merge
from s3pet_viz.export.peft_form import PeftExport, to_peft
from s3pet_viz.export.training_configs import training_config

__all__ = ["Adapter", "Attached", "PeftExport", "merge", "to_peft", "training_config"]
