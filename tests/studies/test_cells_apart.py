"""What tells the cells of a study apart is the study's own: no option says otherwise behind its labels."""

from __future__ import annotations

import pytest

import s3pet_viz as s3
from s3pet_viz.errors import ConfigError
from s3pet_viz.studies.plan import Recipe

WAYS = {
    "sweep": lambda **options: s3.sweep(tasks="sentiment", budgets="3%", methods=["searched"], **options),
    "transfer": lambda **options: s3.transfer(targets=["sentiment"], budget="3%", references=[], **options),
}


class Planned(Exception):
    pass


@pytest.fixture
def planned(monkeypatch, tmp_path, small):
    """The searches that a study would do."""

    def run_cells(cells, *_args, **_options):
        raise Planned([cell for cell in cells if cell.kind == "search"])

    def plan(way, **options):
        with pytest.raises(Planned) as stopped:
            WAYS[way](seeds=1, out=tmp_path / "s", **small, **options)
        return stopped.value.args[0]

    monkeypatch.setattr("s3pet_viz.studies.options.run_cells", run_cells)
    return plan


@pytest.mark.parametrize("name", ["seed", "mode", "budget", "space", "task", "backbone", "save"])
@pytest.mark.parametrize("within", ["", "search", "tune"])
def test_no_option_is_at_odds_with_the_label_of_a_cell(name, within):
    options = {within: {name: 7}} if within else {name: 7}
    words = f"here: {within and within + ': '}expected no '{name}', which a study decides for each of its cells"
    with pytest.raises(ConfigError, match=words):
        Recipe.make(options, "here")
    assert Recipe.make({"search": {"steps": 3, "lr": 1}}, "here").search == {"steps": 3, "lr": 1}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_refused_before_anything_is_loaded(monkeypatch, way):
    monkeypatch.setattr("s3pet_viz.studies.plan.load_pair", None)
    for options in ({"save": "a"}, {"search": {"seed": 7}}, {"per_task": {"sentiment": {"tune": {"seed": 7}}}}):
        with pytest.raises(ConfigError, match="options of sentiment: .*which a study decides"):
            WAYS[way](**options)


def test_a_mode_that_nobody_named_has_its_name(planned):
    searches = planned("sweep", modes=["auto", "fast", "prune"])
    assert [cell.labels["mode"] for cell in searches] == ["fast", "prune"]
    searches = planned("transfer", mode="auto")
    assert [(cell.labels["mode"], cell.what["mode"]) for cell in searches] == [("fast", "fast")]
