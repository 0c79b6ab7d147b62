"""A small encoder that transformers does not know, with unusual names."""

from __future__ import annotations

import transformers as hf
from tiny_families import VOCABULARY
from torch import nn


class QuillConfig(hf.PretrainedConfig):
    model_type = "quill"

    def __init__(self, breadth: int = 32, vocab_size: int = VOCABULARY["bert"], **rest) -> None:
        self.breadth, self.vocab_size = breadth, vocab_size
        super().__init__(**rest)


class Gaze(nn.Module):
    """Attention, by names that say nothing."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.asks, self.offers, self.holds, self.tells = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x, seen):
        weights = (self.asks(x) @ self.offers(x).transpose(1, 2) / 6).masked_fill(~seen[:, None].bool(), -1e9)
        return self.tells(weights.softmax(-1) @ self.holds(x))


class Stroke(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.gaze, self.calm = Gaze(d), nn.LayerNorm(d)
        self.open, self.shut, self.rest = nn.Linear(d, 2 * d), nn.Linear(2 * d, d), nn.LayerNorm(d)

    def forward(self, x, seen):
        x = self.calm(x + self.gaze(x, seen))
        return self.rest(x + self.shut(self.open(x).relu()))


class Quill(hf.PreTrainedModel):
    config_class, base_model_prefix = QuillConfig, "page"

    def __init__(self, config) -> None:
        super().__init__(config)
        self.page = nn.Module()
        self.page.ink = nn.Embedding(config.vocab_size, config.breadth)
        self.page.strokes = nn.ModuleList(Stroke(config.breadth) for _ in range(2))
        self.verdict = nn.Linear(config.breadth, config.num_labels)
        self.post_init()

    def get_input_embeddings(self):
        return self.page.ink

    def forward(self, input_ids, attention_mask, labels=None, return_dict=True, **_):
        x = self.page.ink(input_ids)
        for stroke in self.page.strokes:
            x = stroke(x, attention_mask)
        logits = self.verdict((x * attention_mask[..., None]).sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return hf.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits)
