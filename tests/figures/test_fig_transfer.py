"""The transfer matrix: right numbers, spreads and colours, for every value and yardstick; cells that are not there yet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transfer_problems import TASKS, even, recorded, write_study, write_transfer

from s3pet_viz import figures
from s3pet_viz.analysis import open_study
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.errors import ConfigError, StudyError
from s3pet_viz.figures import _style, transfer, transfer_table
from s3pet_viz.figures._print import printed
from s3pet_viz.figures.transfer import DIFFERS

HOSTILE = "<img src=x onerror=alert(1)>"
GLUE = ["boolq", "cola", "mrpc", "qnli", "rte", "sst2", "stsb", "paraphrase_identification"]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    sources = [*TASKS, "consensus", "published"]
    return write_transfer(tmp_path_factory.mktemp("study") / "s", even, sources=sources, draws=2)


def cell(table, source, target):
    (row,) = table[(table["source"] == source) & (table["target"] == target)].to_dict("records")
    return row


# -- the table ---------------------------------------------------------------------------------------------


def test_values_spreads_and_counts(matrix):
    table = transfer_table(matrix)
    assert list(table) == [
        "source", "target", "kind", "own", "value", "spread", "n", "mean", "overlap",
        "low", "high", "less_own", "less_own_low", "less_own_high", "q", "differs",
    ]  # fmt: skip
    assert table["source"].unique().tolist() == [*TASKS, "consensus", "published", "random", "full", "head"]
    assert table[table["own"]]["source"].tolist() == table[table["own"]]["target"].tolist() == list(TASKS)
    other = cell(table, "sentiment", "entailment")
    assert (other["value"], other["spread"], other["n"]) == pytest.approx((0.71, 0.01, 3))
    own = cell(table, "sentiment", "sentiment")
    assert (own["value"], own["spread"], own["overlap"]) == pytest.approx((0.82, 0.02, 1))
    random = cell(table, "random", "sentiment")
    assert (random["value"], random["n"], random["kind"]) == pytest.approx((0.62, 6, "random"))
    assert cell(table, "head", "similarity")["kind"] == "head"
    expected = [jaccard(recorded("sentiment", s), recorded("entailment", s)) for s in range(3)]
    assert other["overlap"] == pytest.approx(np.mean(expected))
    assert np.isnan(cell(table, "full", "entailment")["overlap"])


@pytest.mark.parametrize(
    ("value", "relative", "other", "spread"),
    [
        # Seed by seed the difference to the own structure is -0.10, -0.11, -0.12.
        ("score", "own", -0.11, 0.01),
        ("score", "random", 0.71 - 0.62, 0.01),
        ("score", "full", 0.71 / 0.91, 0.01 / 0.91),
        ("loss", None, 0.645, 0.005),
        ("loss", "own", 0.055, 0.005),
        ("loss", "full", 0.645 / 0.545, 0.005 / 0.545),
    ],
)
def test_relative_to(matrix, value, relative, other, spread):
    table = transfer_table(matrix, value=value, relative=relative)
    found = cell(table, "sentiment", "entailment")
    assert (found["value"], found["spread"]) == pytest.approx((other, spread))
    assert found["mean"] == pytest.approx(0.71 if value == "score" else 0.645)
    assert (relative in table["source"].tolist()) is False
    if relative == "own":
        own = cell(table, "sentiment", "sentiment")
        assert own["value"] == 0
        assert np.isnan(own["spread"])
        assert cell(table, "full", "sentiment")["value"] == pytest.approx(0.09 if value == "score" else -0.045)


@pytest.mark.parametrize("value", ["score", "loss"])
@pytest.mark.parametrize("relative", [None, "own", "random", "full"])
def test_the_figures_table_is_the_matrix(matrix, value, relative):
    table = transfer_table(matrix, value=value, relative=relative)
    for name in ("value", "n", "overlap"):
        found = table[table["kind"] == "source"].pivot(index="source", columns="target", values=name)
        kind = {"value": lambda: matrix.matrix(value=value, relative=relative), "n": matrix.counts, "overlap": matrix.overlap}
        expected = kind[name]().loc[matrix.sources, matrix.targets]
        np.testing.assert_allclose(found.loc[matrix.sources, matrix.targets], expected)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.1, 0.9), min_size=8, max_size=8), st.sampled_from(["score", "loss"]))
def test_differences_and_shares_are_undone(tmp_path_factory, scores, value):
    """Whatever the scores: the difference plus the yardstick, and the share times it, are the value again."""
    places = {("a", "a"): 0, ("a", "b"): 1, ("b", "a"): 2, ("b", "b"): 3, ("random", "a"): 4, ("random", "b"): 5,
              ("full", "a"): 6, ("full", "b"): 7}  # fmt: skip
    made = write_transfer(
        tmp_path_factory.mktemp("study") / "s", lambda s, t, seed, d: scores[places[s, t]] + 0.01 * seed,
        targets=["a", "b"], references=["random", "full"], seeds=[0, 1],
    )  # fmt: skip
    plain = transfer_table(made, value=value)
    for relative in ("own", "random", "full"):
        for row in transfer_table(made, value=value, relative=relative).to_dict("records"):
            yard = cell(plain, row["target"] if relative == "own" else relative, row["target"])["mean"]
            again = row["value"] * yard if relative == "full" else row["value"] + yard
            # The mean of ratios to one number, and of differences, is that of the means.
            assert again == pytest.approx(row["mean"])


def test_one_seed(matrix):
    table = transfer_table(matrix, seed=2)
    assert cell(table, "sentiment", "entailment")["value"] == pytest.approx(0.72)
    assert np.isnan(cell(table, "sentiment", "entailment")["spread"])
    assert cell(table, "random", "entailment")["n"] == 2
    with pytest.raises(ConfigError, match="seed: expected one of 0, 1, 2, found 7"):
        transfer_table(matrix, seed=7)


def test_a_study_or_its_path_will_do(tmp_path):
    folder = write_study(tmp_path / "study", even, seeds=[0])
    table = transfer_table(folder)
    assert table.equals(transfer_table(open_study(folder)))
    assert table["spread"].isna().all()
    with pytest.raises(StudyError, match="expected a study folder"):
        transfer_table(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="expected a Transfer, or the path of a transfer study, found int"):
        transfer_table(3)


def test_what_is_refused(matrix, tmp_path):
    with pytest.raises(ConfigError, match="value: expected one of score, loss, found 'accuracy'"):
        transfer(matrix, value="accuracy")
    with pytest.raises(ConfigError, match="relative: expected None or one of own, random, full, found 'head'"):
        transfer(matrix, relative="head")
    bare = write_transfer(tmp_path / "bare", even, sources=["elsewhere"], references=["full"], seeds=[0])
    with pytest.raises(ConfigError, match="this study has no 'random' to compare with; it has: full"):
        transfer(bare, relative="random")
    with pytest.raises(ConfigError, match="this study has no 'own'"):
        transfer(bare, relative="own")


# -- the figure --------------------------------------------------------------------------------------------


def test_cells_say_mean_and_spread(matrix):
    figure = transfer(matrix)
    values, overlap, *outlines = figure.data
    text, z = np.array(values.text), np.array(values.z, dtype=float)
    # Five sources, a gap, three references; fractions times 100.
    assert z.shape == text.shape == (9, 3)
    assert np.isnan(z[5]).all()
    assert (text[0, 1], z[0, 1]) == ("71.0<br>± 1.0", pytest.approx(71))
    assert text[5].tolist() == ["", "", ""]
    assert text[7, 0] == "91.0<br>± 1.0"
    assert len(values.y) == 10
    assert figure.layout.yaxis.ticktext[-3:] == ("random", "full", "head")
    # The labels stand in the middle of their cells.
    middles = (np.array(values.y[:-1]) + np.array(values.y[1:])) / 2
    np.testing.assert_allclose(np.delete(middles, 5), figure.layout.yaxis.tickvals)
    assert np.array(overlap.text)[0, 0] == "1.00"
    # None of the references has gates: names of columns follow the last row that has.
    assert (overlap.yaxis, figure.layout.xaxis2.anchor, figure.layout.yaxis2.range) == ("y2", "y2", (4.5, -0.5))
    above, below = figure.layout.yaxis2, figure.layout.yaxis
    assert above.domain[1] - above.domain[0] == pytest.approx(5 / (below.range[0] - below.range[1]))
    assert [trace.name for trace in outlines] == ["casing", "the target's own structure"] * 2 + [DIFFERS]
    assert len(outlines[-1].x) == 21  # every cell but the three on the diagonal
    for trace in outlines[:-1]:
        corners = np.array(trace.x, dtype=float).reshape(3, 6), np.array(trace.y, dtype=float).reshape(3, 6)
        assert [np.nanmean(c, axis=1).round().tolist() for c in corners] == [[0, 1, 2], [0, 1, 2]]
    hover = values.customdata[0][1]
    row = transfer_table(matrix).iloc[1]
    less = [f"{100 * row[name]:+.1f}" for name in ("less_own", "less_own_low", "less_own_high")]
    assert list(hover) == [
        "sentiment → entailment", "score × 100: 71.0 ± 1.0 (95 % 68.5 to 73.5)",
        f", 3 trainings · less the target's own {less[0]} ({less[1]} to {less[2]}, corrected)", f"overlap {row['overlap']:.2f}",
    ]  # fmt: skip


def test_heads_and_title_say_what_is_shown(matrix):
    def said(**options):
        figure = transfer(matrix, **options)
        return [note.text for note in figure.layout.annotations], figure.layout.title.text.replace("<br>", " · ")

    heads, title = said()
    assert heads == ["score × 100", "overlap (Jaccard)"]
    assert title == "Transfer at 0.2% · score × 100 · 3 seeds, mean ± standard deviation"
    heads, title = said(relative="own", overlap=False, seed=1)
    assert heads == ["score − own"]
    assert title == "Transfer at 0.2% · score × 100 less the target's own structure's · blue is better · seed 1"
    heads, title = said(value="loss")
    assert heads[0] == "loss (lower is better)"
    assert "held-out loss · lower is better, drawn stronger" in title
    heads, title = said(value="loss", relative="random")
    assert "less the mean of random structures' · lower is better, blue is better" in title
    assert said(relative="full")[0][0] == "score, % of full"
    assert transfer(matrix, title="Mine").layout.title.text == "Mine"


def test_the_better_is_darker_or_bluer(matrix):
    def colours(figure):
        return [colour for _, colour in figure.data[0].colorscale]

    sequential = [colour for _, colour in _style.SEQUENTIAL]
    assert colours(transfer(matrix)) == sequential
    assert colours(transfer(matrix, value="loss")) == sequential[::-1]
    diverging = [colour for _, colour in _style.DIVERGING]
    for relative in ("own", "random"):
        score, loss = (transfer(matrix, value=value, relative=relative) for value in ("score", "loss"))
        assert (colours(score), colours(loss)) == (diverging, diverging[::-1])
        for figure in (score, loss):
            assert figure.data[0].zmin == -figure.data[0].zmax < 0
    # The head alone is far below, and does not take the colours from the structures.
    assert (transfer(matrix).data[0].zmin, transfer(matrix).data[0].zmax) == pytest.approx((62, 82))
    assert transfer(matrix, relative="own").data[0].zmax == pytest.approx(20)


def test_differences_have_a_sign_and_zero_has_none(matrix):
    text = np.array(transfer(matrix, relative="own").data[0].text)
    assert (text[0, 0], text[0, 1]) == ("0.0", "-11.0<br>± 1.0")
    assert text[7, 0].startswith("+9.0")
    assert np.array(transfer(matrix, relative="full").data[0].text)[0, 1] == "78.0<br>± 1.1"
    assert np.array(transfer(matrix, value="loss", relative="own").data[0].text)[0, 1] == "+0.055<br>± 0.005"


def test_scores_that_are_no_fractions_stay_as_they_are(tmp_path):
    made = write_transfer(tmp_path / "study", lambda *a: 100 * even(*a), seeds=[0])
    figure = transfer(made)
    assert np.array(figure.data[0].text)[0, 1] == "70.0"
    assert figure.layout.annotations[0].text == "score"


def test_trainings_that_are_still_to_come(tmp_path):
    """Nothing of the entailment structure yet, and similarity has no own structure's score."""
    def score(source, target, seed, draw):
        return None if source == "entailment" or source == target == "similarity" else even(source, target, seed, draw)

    made = write_transfer(tmp_path / "study", score)
    table = transfer_table(made, relative="own")
    assert cell(table, "sentiment", "sentiment")["value"] == 0
    assert cell(table, "sentiment", "similarity")["n"] == 3
    assert np.isnan(cell(table, "sentiment", "similarity")["value"])
    figure = transfer(made, relative="own")
    row, column = made.sources.index("sentiment"), made.targets.index("similarity")
    assert np.array(figure.data[0].text)[row, column] == "–"
    assert figure.data[0].customdata[row][column][1] == "score − own: not known (score 71.0)"
    plain = transfer(made)
    row = made.sources.index("similarity")
    assert plain.data[0].customdata[row][column][1:3].tolist() == ["no training yet", ""]


def test_names_are_text(tmp_path):
    made = write_transfer(tmp_path / "study", even, targets=[HOSTILE, "b"], seeds=[0])
    text = transfer(made).to_json()
    assert "<img" not in text
    assert "&lt;img" in text


@pytest.fixture(scope="module", params=[3, 5, 8])
def sized(request, tmp_path_factory):
    tasks = GLUE[-request.param :]
    folder = tmp_path_factory.mktemp("study") / "s"
    return write_transfer(folder, even, targets=tasks, sources=[*tasks, "consensus"], seeds=[0, 1])


def em(text: str) -> float:
    """Width of a line in Helvetica, in parts of the font size (Adobe's font metrics)."""
    narrow = {".": 0.278, " ": 0.278, "-": 0.333, "+": 0.584, "±": 0.549, "–": 0.556}
    return sum(narrow.get(char, 0.556) for char in text)


@pytest.mark.parametrize("relative", [None, "own"])
@pytest.mark.parametrize("value", ["score", "loss"])
def test_every_number_and_name_has_its_place_on_paper(sized, relative, value):
    n = len(sized.targets)
    for mm, overlap, most in ((178, True, 8), (85, True, 3), (85, False, 8 if value == "score" else 5)):
        if n > most:
            continue
        figure = printed(transfer(sized, value=value, relative=relative, overlap=overlap), mm)
        labels = max(len(label) for label in figure.layout.yaxis.ticktext)
        room = figure.layout.width - 48 - 5.5 * labels  # less the row labels, the axis title and the margin
        plot = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
        for trace, axis in zip(figure.data[: 1 + overlap], figure.select_xaxes(), strict=True):
            lines = [line for text in np.ravel(trace.text) for line in str(text).split("<br>")]
            size = trace.textfont.size
            assert size >= 7 * 96 / 72
            assert size * max(map(em, lines)) <= room * (axis.domain[1] - axis.domain[0]) / n, (mm, trace.name)
            assert len(axis.ticktext) == n  # none was thinned out
        rows = figure.layout.yaxis.range[0] + 0.5
        assert 2 * 1.2 * figure.data[0].textfont.size <= plot / rows


def test_many_tasks_have_a_colour_bar_instead_of_numbers(tmp_path):
    made = write_transfer(tmp_path / "study", even, targets=[f"task{i}" for i in range(17)], references=[], seeds=[0])
    figure = transfer(made)
    assert [trace.texttemplate for trace in figure.data[:2]] == [None, None]
    assert [trace.showscale for trace in figure.data[:2]] == [True, True]
    assert figure.data[0].colorbar.x < figure.layout.xaxis2.domain[0]
    assert json.loads(figure.to_json())["layout"]["yaxis"]["range"] == [16.5, -0.5]


def test_both_are_public():
    assert {"transfer", "transfer_table"} <= set(figures.__all__)


# -- what differs from the target's own structure ----------------------------------------------------------


def test_a_cell_less_the_target_s_own_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    noise = {key: rng.normal(0, 0.003) for key in np.ndindex(5, 3, 3, 2)}
    names = [*TASKS, "random", "full"]
    level = {"random": 0.5, "full": 0.8, "sentiment": 0.8, "entailment": 0.7, "similarity": 0.8}

    def score(source, target, seed, draw):
        return (0.8 if source == target else level[source]) + noise[names.index(source), TASKS.index(target), seed, draw]

    made = write_transfer(tmp_path / "s", score, references=("random", "full"), draws=2)
    table, rows = transfer_table(made).set_index(["source", "target"]), made.table()
    p = {}
    for (source, target), row in table.iterrows():
        of = rows[(rows["source"] == source) & (rows["target"] == target)].groupby("seed")["score"].mean()
        own = rows[(rows["source"] == target) & (rows["target"] == target)].groupby("seed")["score"].mean()
        if source == target:
            assert np.isnan(row["less_own"])
            assert not row["differs"]
            continue
        assert row["less_own"] == pytest.approx((of - own).mean())
        p[source, target] = stats.ttest_1samp(of - own, 0).pvalue
    q = dict(zip(p, stats.false_discovery_control(list(p.values())), strict=True))
    for key, value in q.items():
        row = table.loc[key]
        assert row["q"] == pytest.approx(value)
        assert row["differs"] == (value <= 0.05) == (row["less_own_low"] > 0 or row["less_own_high"] < 0)
    assert {name for name, _ in table.index[table["differs"]]} == {"random", "entailment"}
    row, of = table.loc["entailment", "sentiment"], rows[(rows["source"] == "entailment") & (rows["target"] == "sentiment")]["score"]
    assert (row["low"], row["high"]) == pytest.approx(stats.ttest_1samp(of, 0).confidence_interval())


def test_no_mark_without_a_difference_and_none_from_one_seed(tmp_path):
    rng = np.random.default_rng(1)
    same = write_transfer(tmp_path / "same", lambda *_: 0.7 + rng.normal(0, 0.01))
    assert not transfer_table(same)["differs"].any()
    assert DIFFERS not in [trace.name for trace in transfer(same).data]
    one = transfer_table(write_transfer(tmp_path / "one", even, seeds=(0,)))
    assert not one["differs"].any()
    assert one[["low", "high", "q", "less_own_low"]].isna().all(axis=None)
