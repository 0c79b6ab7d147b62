"""Models and batches of a user's own, small: a ViT on generated pictures, two towers, and losses of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

SPACE = {"name": "few", "gates": [{"type": "LoRA", "modules": ["*.W1", "*.Q"], "options": {"r": 1}}, {"type": "LNFit", "modules": ["*.LN"]}]}  # fmt: skip

TOWER_SPACE = {"gates": [{"type": "LoRA", "modules": ["FFN.W1"], "options": {"r": 1}}, {"type": "LNFit", "modules": ["*.LN"]}]}


def vit(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4}  # fmt: skip
    return ViTForImageClassification(ViTConfig(**{**sizes, "num_labels": 2, **changes}))


def pictures(n, seed):
    """Noise; the first patch is bright in one class and dark in the other."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = 0.3 * torch.randn(n, 3, 8, 8, generator=draw)
    pixels[:, 0, :4, :4] += (2 * labels - 1)[:, None, None]
    return TensorDataset(pixels, labels)


def picture_loss(model, batch):
    pixels, labels = batch
    return F.cross_entropy(model(pixel_values=pixels).logits, labels)


def accuracy(model, batches):
    hits = [model(pixel_values=pixels).logits.argmax(-1) == labels for pixels, labels in batches]
    return float(torch.cat(hits).float().mean())


def picture_batches(**how):
    """Train (shuffled), validation and test."""
    loaders = {"train": DataLoader(pictures(48, 1), batch_size=8, shuffle=True, **how)}
    return loaders | {name: DataLoader(pictures(16, k), batch_size=8) for k, name in ((2, "validation"), (3, "test"))}


class Towers(nn.Module):
    """One reads words, the other numbers; both end in one space. No part of it is transformers'."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.words = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 1)
        self.numbers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 1)
        self.ends = nn.ModuleDict({"words": nn.Linear(16, 6), "numbers": nn.Linear(8, 6)})
        self.temperature = nn.Parameter(torch.zeros(()))

    def encode_words(self, ids):
        return F.normalize(self.ends["words"](self.words(self.embed(ids)).mean(1)), dim=-1)

    def encode_numbers(self, x):
        return F.normalize(self.ends["numbers"](self.numbers(x).mean(1)), dim=-1)


def towers():
    torch.manual_seed(1)
    return Towers()


def tower_batches(n, seed):
    """Batches as dictionaries: word i beside numbers that spell i."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        kinds = torch.randperm(20, generator=draw)[:6]
        numbers = F.one_hot(kinds % 8, 8).float() * 2 + F.one_hot(kinds // 8, 8).float()
        made.append({"words": kinds[:, None].expand(-1, 3).contiguous(), "more": [numbers[:, None].repeat(1, 2, 1)]})
    return made


def contrastive(model, batch):
    """InfoNCE both ways; depends on the whole batch."""
    scores = model.encode_words(batch["words"]) @ model.encode_numbers(batch["more"][0]).T * (model.temperature.exp() * 5)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
