"""Evaluate a backbone as it stands: the task's own metrics, and the mean loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from s3pet_viz.backbones import Backbone
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.tasks import Task, compute_metrics
from s3pet_viz.threads import LOCK
from s3pet_viz.tuning.data import IGNORE, Features


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    task: Task,
    features: Features,
    *,
    batch_size: int = 64,
    autocast: Callable[[], Any] = contextlib.nullcontext,
) -> dict[str, float]:
    """Metrics of the task and ``loss``.

    Language models generate greedily; a classification head is read. ``loss`` is the mean over target tokens (language
    models) or over examples (heads); ``score`` is the task's main score.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    model = backbone.model
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    said: dict[int, Any] = {}
    total, weight = 0.0, 0
    try:
        for indices in features.by_length(batch_size):
            batch = features.batch(indices, device)
            with LOCK, autocast():
                output = model(**batch)
                if backbone.form == "text":
                    answers = _generate(backbone, task, features.prompts(indices, device))
                else:
                    answers = _read_head(task, output.logits)
            said.update(zip(indices.tolist(), answers, strict=True))
            size = int((batch["labels"] != IGNORE).sum()) if backbone.form == "text" else len(indices)
            total += float(output.loss) * size
            weight += size
    finally:
        model.train(was_training)
    loss = total / weight
    if not torch.isfinite(torch.tensor(loss)):
        raise NonFiniteLossError(f"evaluation of {task.name}: loss is {loss}")
    predictions = [said[i] for i in range(len(features))]
    return {**compute_metrics(task, features.examples, predictions), "loss": loss}


#: Greedy search alone, whatever the model's own generation config asks for (BART's has beams and banned repeats).
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
}


def _generate(backbone: Backbone, task: Task, prompts: dict[str, torch.Tensor]) -> list[Any]:
    causal = backbone.causal
    ends = {"pad_token_id": backbone.pad_id, "eos_token_id": backbone.tokenizer.eos_token_id} if causal else {}
    tokens = backbone.model.generate(  # type: ignore[operator]
        input_ids=prompts["input_ids"],
        attention_mask=prompts["attention_mask"],
        max_new_tokens=task.max_target_length,
        **_GREEDY,
        **ends,
    )
    if causal:
        # What is said, behind what was asked.
        tokens = tokens[:, prompts["input_ids"].shape[1] :]
    texts = backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [task.parse_prediction(text) for text in texts]


def _read_head(task: Task, logits: torch.Tensor) -> list[Any]:
    logits = logits.float()
    if task.kind == "regression":
        return logits.squeeze(-1).tolist()
    if task.scores_candidates:
        return (logits[:, 1] - logits[:, 0]).tolist()
    return logits.argmax(-1).tolist()
