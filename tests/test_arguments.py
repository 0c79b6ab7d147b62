"""Arguments of the wrong kind: one named error for each, before a backbone is loaded or anything is written."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

import s3pet_viz as s3
from s3pet_viz.config.scoring import ScoreConfig
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.training import pair
from s3pet_viz.tuning import Workbench

GATE = s3.Gate(0, "decoder.final_layer_norm", "decoder", 4, "Final.LN", "LNFit", 128)
STRUCTURE = s3.Structure((GATE,), "tiny-t5", 1)
ADAPTER = s3.Adapter(STRUCTURE, {}, backbone="tiny-t5", model_type="t5")


class Thing:
    def __repr__(self):
        return "a thing"


#: By the words of their repr.
WRONG = {
    repr(value)[:24]: value
    for value in (
        5, -1, 0, 2.5, float("nan"), 10**400, True, "nonsense", "", b"x", [5], [], ["x"], {"x": 1}, {5: 1}, {}, Thing(), int,
        "meta", torch.device("meta"), (1, "a"), np.array([1, 2]), STRUCTURE,
    )
}  # fmt: skip

ONE = {"backbone": "tiny-t5", "task": "headline", "device": "cpu"}  # the task of fewest rows
CALLS = {
    "search": {**ONE, "budget": "0.2%", "out": "run"},
    "tune": {**ONE, "structure": STRUCTURE, "save": "adapter"},
    "evaluate": {**ONE, "adapter": ADAPTER},
    "baselines": ONE,
    "explain": {**ONE, "target": STRUCTURE},
    "what_if": {**ONE, "target": STRUCTURE, "changes": {"remove": "*"}},
    "score": ONE,
    "sweep": {"tasks": ["headline"], "backbone": "tiny-t5", "budgets": ["0.2%"], "out": "study"},
    "transfer": {"targets": ["headline"], "backbone": "tiny-t5", "budget": "0.2%", "out": "study"},
}  # fmt: skip
SEARCH, TUNE, SCORE = ({f.name for f in fields(kind)} for kind in (s3.SearchConfig, TuneConfig, ScoreConfig))
BOTH = SEARCH | TUNE | {"tune_steps", "search", "tune"}
OPTIONS = {"search": SEARCH, "tune": TUNE, "baselines": TUNE, "explain": TUNE, "what_if": TUNE, "score": SCORE, "sweep": BOTH, "transfer": BOTH, "evaluate": set()}

_NUMBERS, _COUNTS, _TEXTS = ("5", "2.5"), ("5",), ("'nonsense'", "''", "'meta'")
#: Values of `WRONG` that are right, or of the right kind, so that what they name has to be looked for.
RIGHT = {
    **dict.fromkeys(
        ("batch_size eval_batch_size evaluations max_steps patience steps tune_steps accumulation checkpoint_every second_order_every rows "
         "max_rows max_source_length n_random").split(), _COUNTS,
    ),
    **dict.fromkeys("eval_every open_steps shrink_steps warmup second_order_from seed warm_steps".split(), ("5", "0")),
    **dict.fromkeys("alpha_lr difference_eps head_lr lr full_lr second_order_cap tau".split(), _NUMBERS),
    **dict.fromkeys(
        ("progress retry overwrite metric competition dropout gradient_checkpointing "
         "train_pooler").split(), ("True",),
    ),
    **dict.fromkeys("backbone label revision task_revision".split(), _TEXTS),
    **dict.fromkeys("out save".split(), ("'nonsense'", "'meta'")),
    **dict.fromkeys("load structures per_task search tune".split(), ("{}",)),
    **dict.fromkeys("track callbacks references".split(), ("[]",)),
    **dict.fromkeys("on_cell on_scores draw".split(), ("<class 'int'>",)),
    **dict.fromkeys("structure target".split(), (repr(STRUCTURE)[:24],)),
    "clip": ("5", "0", "2.5"), "skip_below": ("0",), "stop_when_stable": ("0",), "budget": ("5",), "search_budget": ("5",),
    "budgets": ("5", "[5]", "array([1, 2])"), "workers": ("5", repr(10**400)[:24]),
    "seeds": ("5", "[5]", "array([1, 2])"), "start_from": ("'nonsense'", "'meta'"),
    "sources": (repr(STRUCTURE)[:24], "''"), "device_map": ("{'x': 1}",), "pin": ("{}",),
}  # fmt: skip


class Loaded(Exception):
    pass


@pytest.fixture
def called(monkeypatch, tmp_path):
    """A call's error, or None where it came as far as a backbone. Nothing is left behind."""
    monkeypatch.chdir(tmp_path)

    def loading(*args, **options):
        raise Loaded

    monkeypatch.setattr(pair, "load_backbone", loading)

    def call(name, **changes):
        given = {**CALLS[name], **changes}
        if "model" in changes:
            given["backbone"] = None
        if "resume" in changes:
            given = changes
        try:
            getattr(s3, name)(**given)
        except Loaded:
            return None
        except S3PETError as error:
            return str(error)
        finally:
            assert not list(tmp_path.iterdir())
        raise AssertionError(f"{name}({changes}) returned")

    return call


@pytest.mark.filterwarnings("ignore")  # some combinations are warned of
@pytest.mark.parametrize("name", CALLS)
def test_wrong_kinds_of_every_argument(name, called):
    own = [p for p in inspect.signature(getattr(s3, name)).parameters if p != "options"]
    checked = 0
    for argument in dict.fromkeys([*own, *sorted(OPTIONS[name])]):
        if argument in ("task", "budget", "space", "mode", "seed") and argument not in own and name in ("sweep", "transfer"):
            continue
        for text, value in WRONG.items():
            said = called(name, **{argument: value})
            assert said is not None or text in RIGHT.get(argument, ()), f"{name}({argument}={text}) went on"
            checked += said is not None
    assert checked > 200


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("search", {"load": {"x": 1}}, r"load: unknown option 'x' (expected some of head, "),
        ("tune", {"load": {"device": "cpu"}}, "load: unknown option 'device'"),
        ("tune", {"load": {"split": "paper"}}, "load: unknown option 'split'"),
        ("explain", {"load": [1]}, "load: expected a mapping of options by name, found [1]"),
        ("tune", {"load": {"name": ["rte"]}}, "load: name: expected text, found ['rte']"),
        ("sweep", {"load": {"max_rows": 0}}, "load: max_rows: expected a whole number of at least 1, or one for each split"),
        ("search", {"load": {"task_spec": 5}}, "load: task_spec: expected a Task, or a task.json object, found 5"),
        ("search", {"callbacks": [5]}, "callbacks: expected a list of Callback objects, found 5"),
        ("search", {"callbacks": s3.Callback}, "callbacks: expected a list of Callback objects, found <class"),
        ("search", {"device": "meta"}, "device: expected auto, cpu, cuda, cuda:1, mps or the like, found 'meta'"),
        ("tune", {"device": "meta:0"}, "found 'meta:0'"),
        ("sweep", {"device": "meta"}, "found 'meta'"),
        ("explain", {"device": torch.device("cpu")}, "device: expected text, found device(type='cpu')"),
        ("tune", {"progress": "no"}, "progress: expected true or false, found 'no'"),
        ("tune", {"workbench": "tiny-t5"}, "workbench: expected a Workbench, found str"),
        ("tune", {"structure": 5}, "structure: expected one of full, head, untouched, a run, a structure, or the path of one, found 5"),
        ("explain", {"rows": 2.5}, "rows: expected a whole number of at least 1, found 2.5"),
        ("explain", {"target": None}, "target: expected a run, a structure, or the path of one, found None"),
        ("evaluate", {"batch_size": "8"}, "batch_size: expected a whole number of at least 1, found '8'"),
        ("baselines", {"methods": "LoRA"}, "methods: expected a list of names, found 'LoRA'"),
        ("baselines", {"seeds": True}, "seeds: expected a whole number of at least 1, found True"),
        ("sweep", {"seeds": "3"}, "seeds: expected a whole number of at least 1, found '3'"),
        ("sweep", {"executor": 4}, "executor: expected a concurrent.futures.Executor"),
        ("sweep", {"search": [1]}, "search: expected a mapping of options by name, found [1]"),
        ("sweep", {"per_task": {"headline": 5}}, "per_task: expected a mapping of task names to options"),
        ("transfer", {"sources": 5}, "sources: expected a task, a run, a structure, or the path of one, found 5"),
    ],
)
def test_what_is_said(name, change, words, called):
    assert words in called(name, **change)


def test_a_workbench_s_options_are_load_s(called):
    for options, words in (({"x": 1}, "load: unknown option 'x'"), ({"max_rows": "2"}, "load: max_rows: expected")):
        with pytest.raises(ConfigError, match=words):
            Workbench.open("sentiment", "tiny-t5", **options)
