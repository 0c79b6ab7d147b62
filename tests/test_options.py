"""Every option is said once: what the command line, `launch`, the form, signatures and editors show is made of it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz import launcher
from s3pet_viz.cli import _common as c
from s3pet_viz.cli import app
from s3pet_viz.config import SearchConfig, TuneConfig, typed
from s3pet_viz.config.options import REQUIRED, like, option, options_of, takes
from s3pet_viz.config.scoring import ScoreConfig
from s3pet_viz.config.search import REMOVED
from s3pet_viz.errors import ConfigError

ROOT = Path(__file__).parent.parent
SEARCH, TUNE, SCORE = options_of(SearchConfig), options_of(TuneConfig), options_of(ScoreConfig)


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("config", [SearchConfig, TuneConfig, ScoreConfig])
def test_every_option_says_what_it_is(config):
    for name, one in options_of(config).items():
        assert len(one.help) > 10, name
        assert f"{name}: {one.text}" in config.__doc__
        if one.default is not REQUIRED:
            assert one.checked(one.default) == one.default
        if one.form is not None:
            assert one.checked(one.default if one.form is True else one.form) is not None or one.optional


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("search", SEARCH), ("tune", TUNE), ("explain", TUNE), ("score", SCORE), ("baselines", {n: o for n, o in TUNE.items() if n != "seed"}),
        *((name, {n: SEARCH[n] for n in ("split", "max_rows", "head", "dtype", "device", "precision")})
          for name in ("tune", "explain", "baselines", "score")),
    ],
)  # fmt: skip
def test_every_field_is_a_flag_with_its_help(command, shown):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    text = flat(result.output)
    for name, one in shown.items():
        assert f"--{name.replace('_', '-')}" in text
        assert flat(one.help) in text


@pytest.mark.parametrize(
    ("function", "fields"),
    [("search", SEARCH), ("launch", SEARCH), ("tune", TUNE), ("baselines", TUNE), ("explain", TUNE), ("score", SCORE)],
)
def test_signatures_show_every_option_with_its_default(function, fields):
    shown = inspect.signature(getattr(s3, function)).parameters
    assert not any(one.kind is one.VAR_KEYWORD for one in shown.values())
    for name, one in fields.items():
        if (function, name) == ("baselines", "seed"):  # it has seeds
            assert name not in shown
        elif one.default is not REQUIRED:
            assert shown[name].default == one.default


def test_editors_are_told_the_same():
    spec = importlib.util.spec_from_file_location("write_options", ROOT / "tools" / "write_options.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text() == script.text(), "run python tools/write_options.py"
    assert set(typing.get_type_hints(typed.TuneOptions)) == set(TUNE)
    assert set(typing.get_type_hints(typed.SearchOptions)) == set(SEARCH) - set(script.OWN)


@dataclass(frozen=True)
class More(SearchConfig):
    """One option more than today."""

    patience: int | None = option(None, help="Steps without a better loss.", unset="never", least=2, form=5)
    gently: bool = option(False, help="Move with care.", form=True)


def test_a_new_field_appears_everywhere_by_itself(monkeypatch):
    new = options_of(More)
    assert new["patience"].checked(None) is None
    with pytest.raises(ConfigError, match="patience: expected a whole number of at least 2, found 1"):
        More("t", "b", 9, patience=1)
    with pytest.raises(ConfigError, match="gently: expected true or false, found 'yes'"):
        More.from_dict({"task": "t", "backbone": "b", "budget": 9, "gently": "yes"})

    monkeypatch.setattr(c, "_SEARCH", new)

    @c.takes_fields(search=new)
    def command(out: str | None = None, **fields):
        return fields

    shown = inspect.signature(command).parameters
    assert list(shown)[-1] == "out"
    names = {name: shown[name].annotation.__metadata__[0] for name in ("patience", "gently")}
    assert names["patience"].default == "--patience"
    assert names["patience"].min == 2
    assert names["patience"].help == "Steps without a better loss. [default: never]"
    assert names["gently"].default == "--gently/--no-gently"

    @takes(More)
    def run(*, space=None, **options):
        return options

    signature = inspect.signature(run)
    assert (signature.parameters["patience"].default, signature.parameters["gently"].default) == (None, False)
    assert signature.parameters["space"].default == "S3PET-M"

    from s3pet_viz.widgets import search_form
    from s3pet_viz.widgets.search import _control

    monkeypatch.setattr(search_form, "SearchConfig", More)
    monkeypatch.setattr(search_form, "FIELDS", {name: one for name, one in new.items() if one.form is not None})
    assert _control(new["patience"], 5).value == "5"
    assert _control(new["gently"], False).value is False
    values = {**search_form.DEFAULTS, "gently": True}
    assert search_form.check_form({**values, "patience": "7"})["patience"] == 7
    assert search_form.check_form({**values, "patience": ""})["patience"] is None
    with pytest.raises(ConfigError, match="patience: expected a whole number of at least 2, found 'x'"):
        search_form.check_form({**values, "patience": "x"})


def test_a_field_like_another_has_its_text_and_may_have_its_own_default():
    @dataclass(frozen=True)
    class Other:
        steps: int = like(TuneConfig, "steps", 7)
        lr: float | None = like(TuneConfig, "lr")

    made = options_of(Other)
    assert made["steps"].help == TUNE["steps"].help
    assert (made["steps"].default, made["lr"].default, made["lr"].optional) == (7, None, True)


# -- launch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "slow"}, "mode: expected one of auto, fast"),
        ({"lr": -1}, "lr: expected a positive number, found -1"),
        ({"warmup": 400}, "warmup: expected fewer than the 400 steps"),
        ({"patience": 3}, "unknown field 'patience'"),
        ({"resume": "x"}, "unknown field 'resume'"),
        ({"compile": True}, "compile: was removed"),
    ],
)
def test_launch_refuses_before_a_process_starts(options, words, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "spawn", lambda *_: pytest.fail("it started"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        s3.launch(task="sentiment", budget="0.2%", **options)
    assert not list(tmp_path.iterdir())


def test_launch_hands_every_value_on(tmp_path, monkeypatch):
    words = []

    def spawn(arguments, log):
        words.extend(arguments)
        raise InterruptedError

    monkeypatch.setattr(launcher, "spawn", spawn)
    given = {"tau": 0.5, "dropout": False, "second_order_cap": None, "lr": None, "max_rows": 40, "threads": 1}
    with pytest.raises(InterruptedError):
        s3.launch(task="sentiment", budget="0.2%", out=tmp_path / "run", **given)
    pairs = dict(zip(words[1:-1:2], words[2::2], strict=True))
    assert {"--tau": "0.5", "--max-rows": "40", "--threads": "1", "--backbone": "tiny-t5"}.items() <= pairs.items()
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert sorted(sets) == ["dropout=false", "second_order_cap=null"]


# -- options of before -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REMOVED)
def test_an_option_of_before_is_taken_at_its_default_only(name):
    base = {"task": "t", "backbone": "b", "budget": 9}
    assert name not in SEARCH
    assert SearchConfig.from_dict({**base, name: REMOVED[name]}) == SearchConfig(**base)
    for other in ("other", 0, None, True):
        with pytest.raises(ConfigError, match=f"{name}: was removed; expected its default {REMOVED[name]!r}"):
            SearchConfig.from_dict({**base, name: other})


def test_recorded_runs_open():
    found = sorted((ROOT / "data" / "runs").glob("*/run.json"))
    assert found
    for path in found:
        assert SearchConfig.from_dict(json.loads(path.read_text())["config"]).steps > 0
