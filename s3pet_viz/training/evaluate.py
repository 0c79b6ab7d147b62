"""Evaluate a backbone as it stands: the task's own metrics, and the mean loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.position import understood
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.tasks import Task, compute_metrics
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import Features, answered
from s3pet_viz.training.own import OwnTask, evaluate_own
from s3pet_viz.training.own_batches import OwnBatches


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    task: Task | OwnTask,
    features: Features | OwnBatches,
    *,
    batch_size: int = 64,
    metrics: bool = True,
    autocast: Callable[[], Any] = contextlib.nullcontext,
) -> dict[str, float]:
    """Metrics of the task and ``loss``, or (not `metrics`) the loss alone, for which nothing is generated.

    Language models generate greedily; a classification head is read. ``loss`` is the mean over target tokens (language
    models, and heads that answer each token) or over examples (other heads); ``score`` is the task's main score. Of own
    batches: see `own.evaluate_own`.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    model = backbone.model
    was_training = model.training
    model.eval()
    device = computes_on(model)
    said: dict[int, Any] = {}
    total, weight = 0.0, 0
    try:
        if isinstance(features, OwnBatches):
            assert isinstance(task, OwnTask)
            return evaluate_own(backbone, task, features, batch_size=batch_size, metrics=metrics, autocast=autocast)
        assert isinstance(task, Task)
        for indices in features.by_length(batch_size):
            batch = features.batch(indices, device)
            with LOCK, autocast():
                output = model(**batch, **understood(model, return_dict=True))
                answers: list[Any] = []
                if metrics and backbone.form == "text":
                    answers = _generate(backbone, task, features.prompts(indices, device), output)
                elif metrics:
                    outputs = output.logits.float().cpu().numpy()
                    answers = task.of.read_head(task, outputs, batch["labels"].cpu().numpy())
            said.update(zip(indices.tolist(), answers, strict=metrics))
            size = answered(batch["labels"])
            total += float(output.loss) * size
            weight += size
    finally:
        model.train(was_training)
    loss = total / weight
    if not torch.isfinite(torch.tensor(loss)):
        raise NonFiniteLossError(f"evaluation of {task.name}: loss is {loss}")
    if not metrics:
        return {"loss": loss}
    predictions = [said[i] for i in range(len(features))]
    return {**compute_metrics(task, features.examples, predictions), "loss": loss}


#: What the outputs of encoder-decoders say of their encoder.
_ENCODER = {"encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"}


def _generate(backbone: Backbone, task: Task, prompts: dict[str, torch.Tensor], output: Any) -> list[Any]:
    """Answers to prompts. `output`: of the pass that gave their loss, whose encoder has read them already."""
    from transformers import GenerationConfig
    from transformers.modeling_outputs import BaseModelOutput

    model: Any = backbone.model
    states = None if backbone.causal else getattr(output, "encoder_last_hidden_state", None)
    # A mixture of experts asks its encoder's output for more than a `BaseModelOutput` has: it reads the text again.
    more = {name for name in vars(output) if name.startswith("encoder_")} - _ENCODER
    read = {} if states is None or more else {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
    # Greedy search alone. A setting that is not given here would be the checkpoint's own (BART's has beams and banned
    # repeats), also where a config is passed: so the model has no other while it writes.
    own, model.generation_config = (
        model.generation_config,
        GenerationConfig(
            max_new_tokens=task.max_target_length,
            do_sample=False,
            num_beams=1,
            pad_token_id=backbone.pad_id,
            eos_token_id=backbone.end_id,
            decoder_start_token_id=None if backbone.causal else backbone.start_id,
        ),
    )
    try:
        tokens = model.generate(
            input_ids=prompts["input_ids"],
            attention_mask=prompts["attention_mask"],
            generation_config=model.generation_config,
            **read,
        )
    finally:
        model.generation_config = own
    # The answer comes after the prompt, or after the token that the decoder starts with.
    texts = backbone.said(tokens[:, prompts["input_ids"].shape[1] if backbone.causal else 1 :])
    return [task.parse_prediction(text) for text in texts]
