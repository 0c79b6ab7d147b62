"""The names that options take, for every room that needs them."""

from __future__ import annotations

#: What names a run, in messages.
A_RUN = "a run, its folder, or a recorded run's name"
#: How a search moves alpha, see `engine.modes`.
MODES = ("fast", "paper", "first-order", "single-level", "exact", "prune")
#: Embedded spaces; ``+cross`` adds cross-attention (LoRA-ranks has it).
SPACES = ("S3PET-M", "S3PET-L", "S3PET-M+cross", "S3PET-L+cross", "LoRA-ranks")
#: How both learning rates move over a search.
SCHEDULES = ("linear", "constant")
#: One-pass scores, see `tuning.one_pass`: of every PET module, and of the linear layers that a LoRA would go on.
GATE_SCORES, LAYER_SCORES = ("gradient", "fisher", "sensitivity"), ("gora", "plop", "domlora", "eva")
#: Those that take forward passes alone.
FORWARD_SCORES = ("plop", "eva")
ONE_PASS = (*GATE_SCORES, *LAYER_SCORES)
#: Structures by one-pass scores: gates in the order of their score, or (``/param``) of their score per parameter.
ONE_PASS_METHODS = (*(f"{kind}{per}" for kind in GATE_SCORES for per in ("", "/param")), *LAYER_SCORES)
#: Heads that `backbones.load_backbone` gives.
HEADS = ("auto", "lm", "classification")
#: Of the frozen weights; ``auto`` is the files' own.
DTYPES = ("float32", "bfloat16", "float16", "auto")
#: In what passes compute. fp16 needs loss scaling, which a difference of gradients does not survive.
PRECISIONS = ("fp32", "bf16")
#: How a task's rows become train, validation and test, see `tasks.load_task`.
SPLITS = ("paper", "holdout")

DEFAULT_BACKBONE = "tiny-t5"
