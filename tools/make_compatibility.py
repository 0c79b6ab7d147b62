"""Write docs/compatibility.md: run every check of tests/family_checks.py on every tiny model of tests/tiny_families.py
and tests/read_families.py.

    python tools/make_compatibility.py [--only NAME ...]

--only: of these models alone; the other rows stay as they are.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
sys.path.insert(0, str(ROOT / "tests"))

from family_checks import CHECKS, outcome  # noqa: E402
from read_families import READ  # noqa: E402
from tiny_families import TINY, TinyFamily  # noqa: E402

from s3pet_viz.backbones import FAMILIES, positions  # noqa: E402
from s3pet_viz.files import write_text_atomic  # noqa: E402

TEXT = """# Which backbones work

Written by `python tools/make_compatibility.py` (transformers {transformers}, torch {torch}); do not edit. Each cell is a run of a
check in `tests/family_checks.py` on a tiny model of random weights, and the tests run the same checks again (of the
families without a table, two of them). [Every text family of transformers](families.md) was tried too.

## What was checked

{table}

- insertion: with LoRA, BitFit and LNFit everywhere the model's outputs are its own (float32: to the bit; float64: to
  1e-12); after `detach` weights and outputs are the old ones to the bit.
- fast, paper, first-order, single-level, exact, prune: a search in this mode; the budget is met, and the model is left bit-identical.
- tuning: a structure is trained and scored: by generation, or by the classification head.
- adapter: every gate of S3PET-M, weights far from zero, in an adapter folder and back: the same outputs to the bit.
- PEFT, merged: LoRA and LNFit gates, loaded by `PeftModel` and by plain transformers: the same outputs in float64 to
  1e-12 (1e-6 where a norm computes in float32 in a form of its own: Gemma 1 to 3, OLMo 2, Cohere, DeBERTa v1). merged BitFit: every BitFit gate; one whose module has no bias is refused.

## Heads

| family | `model_type` | `head="auto"` | also |
|---|---|---|---|
{heads}

`lm`: the task's text form. An encoder-decoder reads the source and writes the target. A decoder-only model reads
`<source> answer:` and writes ` <target>` and its end token; the loss is that of these answer tokens alone, and prompts are padded on the
left for generation. It pads with its tokenizer's pad token, or else with the end token.

`classification`: a head of its own, trained beside the PET modules. Ask for it with
`s3.search(..., head="classification")` or `s3pet search --head classification`; `tune`, `explain`, `baselines`, `sweep` and `transfer` take
`load={{"head": "classification"}}`, and follow a run that has it. A pair of texts is read by a decoder-only model with a line break
in between.

## Positions

{positions}

GPT-2 computes queries, keys and values with one matrix, `SelfAttn.QKV`: a single position, with a single LoRA of rank r for all three. A
space that names `SelfAttn.Q`, `K` or `V` gets it, once.

Gemma multiplies by 1 + weight in its norms. LNFit's delta, `w * normalise(h)`, adds w to that sum, as in any other norm.

Linear layers and norms that are no position:

{left_out}

## Families without a table

The families above have a table each (`structure/families.yaml`). Of any other text model of `transformers`, and of a
model in memory, positions are read off the model: layers by their numbers (where none has one, as modules of one class
side by side), attention and feed-forward blocks by what they hold, linear layers by name, place and width
(`backbones/discovery.py` says the rules; with the tables switched off they name every position above as the tables do).
`s3.positions(name_or_model)` and `s3pet positions NAME` show what was found, and what was left out and why.

{read}

Qwen 2.5 and Llama 3.x have the tables of qwen2 and llama. Models that read sound or pictures (Whisper, ViT) are named in
the same way: `s3.positions(model)`, and gates go into them.

Where a name is wrong, say what it is: `family=` (a mapping, or a YAML or JSON file) of `search`, `tune`, `explain`, `score`,
`baselines`, `positions` and `load_backbone`, `--family FILE` of the commands, `load={{"family": ...}}` of studies; or for a
session `s3.register_family(model_type, ...)`, which the searches and studies that it starts know too. A table names what
discovery gets wrong, and the rest is still read:

```yaml
encoder:
  block: strokes.{{n}}        # a name that begins with a point lies in it
  SelfAttn: .gaze
  SelfAttn.Q: .gaze.asks
  FFN.LN: .rest
  left_out: [.gaze.spare]   # no position
```

A field that names nothing, a module that is of another kind, two fields for one module: an error that names the file and the
field, before weights are read. A run keeps its table (run.json), so it is resumed where the table is not registered; a
structure and an adapter name their modules themselves, and need none.

Such models have positions that those above have not:

- `SelfAttn.Q.LN`, `SelfAttn.K.LN`: norms of queries and keys, as wide as a head or as all of them.
- `SelfAttn.LN`, `FFN.LN`: a layer's norm for the block; `SelfAttn.post.LN`, `FFN.post.LN`: one that calls itself behind
  the block (Gemma 2 has both). Where both blocks read one norm (Falcon), it is `SelfAttn.LN`.
- `SelfAttn.QKV`, `SelfAttn.KV`, `FFN.W1.both` (up and gate): one matrix for several; a space that names one of them gets it.
  Of queries, keys and values of low rank (DeepSeek) these are the matrices that widen them; the others are `Block.q_a_proj`
  and the like.
- `Block.<own name>`, of a norm `Block.<own name>.LN`: in a layer, but what it does is not certain. A space may name it.

Experts and what chooses them are left out; the block `FFN` is then the sum of the experts. A layer that a model runs
several times (ALBERT), and a module or a weight that is used twice, is one position.

Tiny models of all text families of transformers were [searched and tuned](families.md), too.

## Not supported

- Weights quantised otherwise than by bitsandbytes or as torchao's int8 ([those](performance.md#quantised-weights)),
  as by GPTQ or AWQ: refused with a `BackboneError` that says what was found.
- Layers that are no `nn.Linear` (nor GPT-2's `Conv1D`), as SqueezeBERT's convolutions: left out, or refused where there
  are no others.
- Models that `torch.compile` was called on: refused by name; give the model from before.
"""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _models(tiny_models: Iterable[TinyFamily], only: Collection[str]) -> str:
    lines = [_row("backbone", *CHECKS), f"|---{'|---' * len(CHECKS)}|"]
    old = PAGE.read_text().splitlines()
    for tiny in tiny_models:
        if only and tiny.name not in only:
            lines += [line for line in old if line.startswith(f"| {tiny.name} |")][:1]
            continue
        found = []
        for column, check in CHECKS.items():
            print(f"{tiny.name}: {column}", file=sys.stderr)
            found.append(outcome(check, tiny).replace("|", "/").replace("\n", " "))
        lines.append(_row(tiny.name, *found))
    return "\n".join(lines)


def _heads() -> str:
    rows = []
    for family in FAMILIES:
        rows.append(
            _row(
                family.name,
                ", ".join(family.model_types),
                "classification" if family.encoder_only else "lm",
                "" if family.encoder_only else "classification",
            )
        )
    return "\n".join(rows)


def _positions() -> str:
    lines = [_row("backbone", "positions in a layer", "outside the layers"), "|---|---|---|"]
    for tiny in TINY:
        if "," in tiny.name:
            continue
        found = positions(tiny.model())
        last = max(p.layer for p in found if p.layer >= 0 and not p.module.startswith("Final."))
        stack = "decoder" if any(p.stack == "decoder" for p in found) else "encoder"
        inside = [p.module for p in found if p.layer == last and p.stack == stack and not p.module.startswith("Final.")]
        outside = dict.fromkeys(p.module for p in found if p.module.startswith(("Emb.", "Final.")))
        lines.append(_row(tiny.name, ", ".join(inside), ", ".join(outside)))
    return "\n".join(lines)


def _left_out() -> str:
    return "\n".join(f"- {tiny.name}: `{name}`, {why}" for tiny in TINY for name, why in tiny.left_out.items())


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*names what this backbone lacks", UserWarning)  # experts have no linear layers
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    only = parser.parse_args().only
    write_text_atomic(
        PAGE,
        TEXT.format(
            transformers=transformers.__version__,
            torch=torch.__version__.split("+")[0],
            table=_models(TINY, only),
            read=_models((tiny for tiny, _ in READ.values()), only),
            heads=_heads(),
            positions=_positions(),
            left_out=_left_out(),
        ),
    )
