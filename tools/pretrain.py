"""Pretrains an embedded backbone from nothing: tokenizer, model, mixture, one seeded one-thread run.

    python tools/pretrain.py --backbone tiny-t5
    python tools/pretrain.py --backbone tiny-qwen3

The vocabulary is the lexicon itself (one piece per word) plus single characters for anything else, so
sequences are short and a run of a few thousand steps takes minutes. What differs between the two is in
``tiny_models.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from skills import VOCABULARY, Grammar, split_words, stream
from tiny_models import IGNORE, MODELS, Ids, TinyModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = [f"<extra_id_{i}>" for i in range(32)]
# Field names and prefixes of the package's T5 text form, kept whole.
FIELD_WORDS = ["text:", "sentence1:", "sentence2:", "premise:", "hypothesis:", "question:", "context:"]
FIELD_WORDS += ["sentence:", "label:", "true", "false", "yes", "no", "sentence", "text"]


def build_tokenizer(kind: TinyModel) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer whose pieces are known words, then characters; one for T5 appends ``</s>``."""
    seen = dict.fromkeys(VOCABULARY + FIELD_WORDS)
    for _, source, target in stream(random.Random("vocabulary"), 20000):
        for word in split_words(f"{source} {target}"):
            if not word.startswith("<extra"):
                seen.setdefault(word)
    seen |= dict.fromkeys(kind.words)
    special = SENTINELS if kind.ends_texts else list(kind.special)
    chars = [c for c in string.printable if not c.isspace()]
    words = [w for w in seen if len(w) > 1]
    pieces = [(PAD, 0.0), (EOS, 0.0), (UNK, 0.0), ("▁", -12.0)]
    pieces += [(c, -12.0) for c in chars] + [(f"▁{c}", -11.0) for c in string.ascii_lowercase + string.digits]
    pieces += [(f"▁{w}", -9.0) for w in words]
    core = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    core.add_special_tokens([AddedToken(s, lstrip=True, special=True) for s in special])
    if kind.ends_texts:
        core.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=special,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = kind.chat_template
    return made


def batches(
    kind: TinyModel, tok: PreTrainedTokenizerFast, rng: random.Random, size: int, stage: int
) -> Iterator[tuple[Ids, Ids]]:
    """Endless (sources, targets) of similar length, so that little is spent on padding."""
    while True:
        rows = stream(rng, size * 40, stage, kind.mixture)
        sources, targets = kind.read(tok, [(s, t) for _, s, t in rows], rng)
        lengths = list(map(kind.length, sources, targets))
        order = sorted(range(len(rows)), key=lambda i: lengths[i] + rng.random() * 3)
        starts = list(range(0, len(order), size))
        rng.shuffle(starts)
        for start in starts:
            chosen = order[start : start + size]
            yield [sources[i] for i in chosen], [targets[i] for i in chosen]


@torch.no_grad()
def skill_report(kind: TinyModel, model: Any, tok: PreTrainedTokenizerFast, seed: int) -> dict[str, dict[str, float]]:
    """Loss and exact-match (teacher forced) per skill on fresh examples."""
    model.eval()
    report: dict[str, dict[str, float]] = {}
    for name, (make, *_) in kind.mixture.items():
        rng = random.Random(f"report-{name}-{seed}")
        g = Grammar(rng, plain=True)
        _, logits, y = kind.passed(model, *kind.read(tok, [make(g) for _ in range(200)], rng))
        loss = cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        hit = (logits.argmax(-1) == y) | (y == IGNORE)
        report[name] = {
            "loss": round(float(loss), 4),
            "exact": round(float(hit.all(1).float().mean()), 3),
        }
    model.train()
    return report


def train(args: argparse.Namespace) -> None:
    """Both stages; each starts a new optimizer, so that one more can follow on what was saved."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    transformers.logging.disable_progress_bar()
    kind = MODELS[args.backbone]
    args.out = args.out or Path(__file__).parents[1] / "data" / "backbones" / args.backbone
    tok = build_tokenizer(kind)
    model = kind.build(len(tok))
    total = sum(p.numel() for p in model.parameters())
    print(f"vocabulary {len(tok)}, parameters {total}", flush=True)
    stages: list[dict[str, object]] = []
    if args.first is not None:
        model = kind.model_class.from_pretrained(args.first)
        stages = json.loads((args.first / "training.json").read_text(encoding="utf-8"))["stages"]
    for stage in range(len(stages) + 1, max(3, len(stages) + 2)):
        stages.append(run_stage(args, kind, tok, model, stage))
        skills = skill_report(kind, model, tok, args.seed)
        save(args, kind, tok, model, {"parameters": total, "stages": stages, "skills": skills})
        print(json.dumps(skills), flush=True)


def run_stage(
    args: argparse.Namespace, kind: TinyModel, tok: PreTrainedTokenizerFast, model: Any, stage: int
) -> dict[str, object]:
    """One pass over a fresh stream with its own warm-up and decay."""
    steps, lr = (args.steps, args.lr) if stage == 1 else (args.second_steps, args.second_lr)
    lr = lr or kind.rates["lr" if stage == 1 else "second_lr"]
    groups = [{"params": weights, "lr": lr * multiple} for weights, multiple in kind.groups(model)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def rate(step: int) -> float:
        done = min(1.0, step / steps)
        return min(1.0, (step + 1) / args.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    name = f"pretrain-{args.seed}" if stage == 1 else f"pretrain-{args.seed}-{stage}"
    source = batches(kind, tok, random.Random(name), args.batch, min(stage, 2))
    model.train()
    begun, processor = time.time(), time.process_time()
    window, history = [], []
    for step in range(1, steps + 1):
        loss = kind.passed(model, *next(source))[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        window.append(float(loss.detach()))
        if step % args.log == 0:
            mean = sum(window) / len(window)
            history.append({"step": step, "loss": round(mean, 4)})
            window.clear()
            print(f"stage {stage} step {step} loss {mean:.4f} {time.process_time() - processor:.0f}s", flush=True)
        if step % args.report == 0 and step < steps:
            print(json.dumps(skill_report(kind, model, tok, args.seed)), flush=True)
            if args.checkpoint is not None:
                model.save_pretrained(args.checkpoint)
                tok.save_pretrained(args.checkpoint)
    spent = {"seconds": round(time.time() - begun), "processor_seconds": round(time.process_time() - processor)}
    return {"steps": steps, "learning_rate": lr, **spent, "loss": history}


def save(
    args: argparse.Namespace,
    kind: TinyModel,
    tok: PreTrainedTokenizerFast,
    model: Any,
    measured: dict[str, object],
) -> None:
    """Model, tokenizer and how they came to be."""
    model.eval()
    model.save_pretrained(args.out)
    tok.save_pretrained(args.out)
    note = {
        "objective": kind.objective,
        "start": kind.start,
        "seed": args.seed,
        "batch": args.batch,
        "rates": kind.rates,
        "warmup": args.warmup,
        "optimizer": "AdamW, cosine decay, no weight decay, gradient norm clipped at 1",
        "dropout": 0.0,
        "vocabulary": len(tok),
        "mixture": {name: list(weights) for name, (_, *weights) in kind.mixture.items()},
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        **measured,
    }
    (args.out / "training.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=list(MODELS), default="tiny-t5")
    parser.add_argument("--out", type=Path, help="default: its folder in data/backbones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--second-steps", type=int, default=2400)
    parser.add_argument("--first", type=Path, help="one more stage, on what this folder holds; from the second on with its mixture")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, help="default: the backbone's own (tiny_models.py)")
    parser.add_argument("--second-lr", type=float, help="of the second stage")
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path, help="also keep the unfinished model here")
    parser.add_argument("--log", type=int, default=100)
    parser.add_argument("--report", type=int, default=500)
    train(parser.parse_args())
