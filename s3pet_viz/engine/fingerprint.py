"""What a search began with, in digests: it resumes only on the same data and backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.placed import stored
from s3pet_viz.errors import RunError
from s3pet_viz.structure import Gate
from s3pet_viz.tasks import Example, TaskData
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.training.own_data import OwnData

#: Entries that searches of earlier versions have not.
SINCE = ("backbone weights", "tokenizer", "validation rows")


def fingerprint_of(
    backbone: Backbone, gates: Sequence[Gate], data: TaskData | OwnData, processes: int
) -> dict[str, Any]:
    """Of a search in so many processes; JSON values. Of own batches, the first few stand for all."""
    return {
        "backbone parameters": backbone.n_params,
        "gates": _digest([repr([(g.key, g.n_params) for g in gates]).encode()]),
        "training rows": data.train.words if isinstance(data.train, OwnBatches) else len(data.train),
        **({"processes": processes} if processes > 1 else {}),
        "data": _rows_digest(data.train),
        "validation rows": _rows_digest(data.validation),
        "backbone weights": _digest(_weights(backbone)),
        "tokenizer": _tokenizer_digest(backbone.tokenizer),
    }


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raises RunError where a search would go on with other data or another backbone than it began with."""
    for key in now:
        if saved.get(key, now[key] if key in SINCE else None) != now[key]:
            raise RunError(
                f"{where}: {key} was {saved.get(key)!r} when the search began, and is {now[key]!r} now; "
                "a search resumes only on the same data and backbone"
            )


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _rows_digest(rows: Sequence[Example] | OwnBatches) -> str | None:
    if isinstance(rows, OwnBatches):
        return rows.probe()[1]
    return _digest(repr((example.source, example.target, example.label)).encode() for example in rows)


def _weights(backbone: Backbone) -> Iterator[bytes | memoryview]:
    """Every weight, but those that were drawn: other versions of torch may draw others."""
    drawn = {*backbone.head, *backbone.drawn}
    for name, weight in stored(backbone.model):
        if name not in drawn:
            yield f"{name} {tuple(weight.shape)} {weight.dtype} ".encode()
            yield weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _tokenizer_digest(tokenizer: Any) -> str | None:
    """Of the tokens and their numbers; None where the tokenizer does not tell."""
    try:
        words = sorted(tokenizer.get_vocab().items())
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return _digest([repr(words).encode("utf-8", "replace")])
