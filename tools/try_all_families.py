"""Try every text family of transformers: a tiny random model of each class is built, read, searched and tuned.

    python tools/try_all_families.py [--only NAME ...] [--head HEAD] [--again] [--failed] [--half]

It goes over the auto-mappings for sequence classification, causal and sequence-to-sequence language modelling. Each
class has a process of its own with a limit of memory and time. What happened is kept in
benchmarks/measured/families.jsonl, and is not tried again (unless --again, --failed or --half). From that file
docs/families.md is written at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
for _folder in ("tests", "tools"):
    sys.path.insert(0, str(ROOT / _folder))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from problems import MOOD, assert_same, mood_data, snapshot, word_tokenizer  # noqa: E402
from tiny_configs import tiny_config  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

import s3pet_viz as s3  # noqa: E402
from s3pet_viz.backbones import positions  # noqa: E402
from s3pet_viz.errors import S3PETError  # noqa: E402
from s3pet_viz.files import write_text_atomic  # noqa: E402
from s3pet_viz.pet import candidate_gates, load_space  # noqa: E402

RESULTS = ROOT / "benchmarks" / "measured" / "families.jsonl"
PAGE = ROOT / "docs" / "families.md"
#: Of a case, in seconds of its own, and of the clock: it may wait for others.
SECONDS, PATIENCE, MEMORY = 240, 3600, 6 * 2**30
#: A model with more parameters than this is not small: a field of its config is not made so.
MOST_PARAMETERS = 4_000_000
HEADS = {
    "SEQUENCE_CLASSIFICATION": "classification",
    "CAUSAL_LM": "causal",
    "SEQ_TO_SEQ_CAUSAL_LM": "sequence to sequence",
}
#: How far a case came, and what stopped it.
STAGES = ("built", "positions", "searched", "tuned")


class Case(NamedTuple):
    """A class of transformers for a head, of a model type."""

    kind: str
    head: str
    name: str


def cases() -> Iterator[Case]:
    for task, head in HEADS.items():
        for kind, name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            yield Case(kind, head, name)


# -- one case ----------------------------------------------------------------------------------------------------


def build(case: Case) -> tuple[Any, Any]:
    """A tiny model of random weights, and its tokenizer."""
    encodes = case.kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encodes = encodes or case.kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    form = {"causal": "gpt", "sequence to sequence": "roberta"}.get(case.head, "bert" if encodes else "gpt")
    if case.kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and case.head != "causal":
        form = "roberta"
    tokenizer = word_tokenizer(form)
    names = ("pad", "bos", "eos", "cls", "sep")
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    tokens["vocab_size"] = len(tokenizer)
    if form == "gpt":
        tokens["pad_token_id"] = 0
    tokens["decoder_start_token_id"] = 2
    if form == "bert":
        tokens["eos_token_id"] = tokens["sep_token_id"]
    config = tiny_config(case.kind, case.head, tokens)
    cls = getattr(transformers, case.name)
    if not isinstance(config, cls.config_class):  # of several parts, the one that writes
        config = getattr(config, "decoder", None) or config.get_text_config()
    with torch.device("meta"):
        size = sum(p.numel() for p in cls(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"not made small: {size:,} parameters")
    torch.manual_seed(0)
    model = cls(config).eval()
    ids = torch.tensor([[5, 9, 12, 7, 6, 2]])  # it runs as transformers made it
    labels = torch.tensor([1]) if case.head == "classification" else ids
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    return model, tokenizer


def try_case(case: Case) -> dict[str, Any]:
    """How far it comes: each stage that was reached, with what was found, and the reason where it ended."""
    found: dict[str, Any] = {}
    stage = "built"
    try:
        model, tokenizer = build(case)
        found["built"] = sum(p.numel() for p in model.parameters())
        stage = "positions"
        read = s3.positions(model)
        found["positions"] = len(read)
        found["uncertain"] = sorted({p.module for p in read.positions if p.module.startswith("Block.")})
        found["names"] = sorted({p.module for p in read.positions})
        stage = "searched"
        found["searched"], found["share"], structure = _search(model, tokenizer)
        stage = "tuned"
        found["tuned"] = _tune(model, tokenizer, structure)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        found |= {"stopped": stage, "reason": f"{type(error).__name__}: {said}"[:300]}
        found["refused"] = isinstance(error, S3PETError)
    return found


def _common(model: Any, tokenizer: Any) -> dict[str, Any]:
    where = {"device": "cpu", "progress": False, "batch_size": 4}
    return {"task": mood_data(16, 8), "load": {"task_spec": MOOD}, "model": model, "tokenizer": tokenizer, **where}


def _search(model: Any, tokenizer: Any) -> tuple[int, float, Any]:
    """Two steps, the second with the second-order term; the backbone is left to the bit. The number of gates, the
    budget as a share of their parameters, and the structure."""
    before = snapshot(model)
    gates, _ = candidate_gates(positions(model), load_space("S3PET-M"))
    sizes = [gate.n_params for gate in gates]
    budget = max(min(sizes), sum(sizes) // 5)  # many cannot help, where a model reads sound too
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = s3.search(**_common(model, tokenizer), budget=budget, steps=2, second_order_from=1, out=out)
        steps, structure = run.steps(), run.structure()
    assert np.isfinite(steps["train_loss"]).all(), "a loss is not finite"
    moved = (np.stack(steps["alpha"])[-1] != 0).mean()
    assert moved > 0.3, f"{moved:.0%} of the gates have a gradient"
    assert 0 < structure.n_params <= budget, "the budget is not met"
    assert_same(model, before)
    return len(run.gates_list), round(budget / sum(sizes), 4), structure


def _tune(model: Any, tokenizer: Any, structure: Any) -> float:
    """Two steps, and a score by generation or by the head."""
    before = snapshot(model)
    scores = s3.tune(structure, steps=2, evaluations=1, **_common(model, tokenizer))
    assert_same(model, before)
    return round(float(scores.metrics["loss"]), 3)


# -- all of them -------------------------------------------------------------------------------------------------


def in_process(case: Case) -> dict[str, Any]:
    """`try_case` in a process of its own, which is a copy of this one: transformers is imported once."""
    read, write = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(read)
        os.setpgid(0, 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        with os.fdopen(write, "w") as out:
            json.dump(try_case(case), out)
        os._exit(0)
    os.close(write)
    signal.alarm(PATIENCE)
    try:
        with os.fdopen(read) as pipe:
            said = pipe.read()
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        said = json.dumps({"stopped": "searched", "reason": f"not done after {PATIENCE} seconds"})
    finally:
        signal.alarm(0)
    _, status = os.waitpid(child, 0)
    if not said:
        said = json.dumps({"stopped": "searched", "reason": f"its process ended with status {status}"})
    return {**case._asdict(), **json.loads(said), "seconds": round(time.monotonic() - began, 1), "with": versions()}


def versions() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}"


def _timed_out(*_: Any) -> None:
    raise TimeoutError


def results() -> dict[Case, dict[str, Any]]:
    """The last result of each case."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {Case(row["kind"], row["head"], row["name"]): row for row in rows}


# -- the page ----------------------------------------------------------------------------------------------------

TEXT = """# Every text family of transformers

Written by `python tools/try_all_families.py` ({versions}) from
`benchmarks/measured/families.jsonl`; do not edit.

Of each class in the auto-mappings for sequence classification, causal and sequence-to-sequence language modelling, a
tiny model of random weights is made: its default config with every size made small. Its positions are read, a search
of two steps (the second with the second-order term) goes over S3PET-M with a fifth of its parameters as budget, and the
structure is trained for two steps and scored. It works if all losses are finite, more than 30 % of the gates move, the
budget is met, and the backbone is as it was, to the bit.{half}

{counts}

Not built: its default config cannot be made so small, or the class itself does not run so (the reasons are below). A
share is of what was built.

## What does not work

{failed}

## All families

Not certain: linear layers and norms inside the layers that are named `Block.<own name>`
([names](compatibility.md#families-without-a-table)).

{table}
"""


def at_half(found: Mapping[str, Any]) -> bool:
    """Whether a case was searched, early, with half of all parameters as budget. Where nothing is said, a fifth."""
    return bool(found.get("share", 0) > 0.4)


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of these results."""
    heads = list(HEADS.values())
    counts = [row("mapping", "classes", "built", "work", "share"), "|---|---|---|---|---|"]
    for head in (*heads, "all"):
        own = [r for r in rows if head in ("all", r["head"])]
        built, works = (sum(stage in r for r in own) for stage in ("built", "tuned"))
        counts.append(row(head, len(own), built, works, f"{works / max(1, built):.1%}"))
    failed = [row("family", "mapping", "class", "stopped while", "reason"), "|---|---|---|---|---|"]
    failed += [row(r["kind"], r["head"], r["name"], r["stopped"], r["reason"]) for r in rows if "tuned" not in r]
    table = [row("family", *heads, "not certain"), "|---|---|---|---|---|"]
    for kind in sorted({r["kind"] for r in rows}):
        own = {r["head"]: r for r in rows if r["kind"] == kind}
        cells = ["" if h not in own else "works" if "tuned" in own[h] else own[h]["stopped"] for h in heads]
        unsure = {m.removeprefix("Block.") for r in own.values() for m in r.get("uncertain", ())}
        table.append(row(kind, *cells, ", ".join(sorted(unsure))))
    used = "; ".join(sorted({r["with"] for r in rows}))
    early = sum(map(at_half, rows))
    half = f"\n{early} of the classes were tried early, with half of their parameters as budget." if early else ""
    return TEXT.format(versions=used, half=half, counts="\n".join(counts), failed="\n".join(failed), table="\n".join(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="these model types alone")
    parser.add_argument("--head", default="", choices=list(HEADS.values()), help="this mapping alone")
    parser.add_argument("--again", action="store_true", help="also what has a result")
    parser.add_argument("--failed", action="store_true", help="also what was not tuned")
    parser.add_argument("--half", action="store_true", help="also what was searched with half of the parameters")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _timed_out)
    known = results()
    for case in cases():
        anew = given.again or (given.failed and "tuned" not in known.get(case, {}))
        anew = anew or (given.half and at_half(known.get(case, {})))
        skip = case in known and not anew
        if skip or (given.only and case.kind not in given.only) or given.head not in ("", case.head):
            continue
        done = known[case] = in_process(case)
        rows = [known[c] for c in cases() if c in known]
        write_text_atomic(RESULTS, "".join(json.dumps(r) + "\n" for r in rows))
        print(f"{case.kind:24} {case.head:22} {done.get('reason', 'works')}  ({done['seconds']} s)", flush=True)
    write_text_atomic(PAGE, page([known[c] for c in cases() if c in known]))


if __name__ == "__main__":
    main()
