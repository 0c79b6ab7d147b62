"""Does a matrix of agreement between tasks foretell transfer? Against studies whose numbers are known."""

from __future__ import annotations

import pandas as pd
import pytest
from transfer_problems import write_study

from s3pet_viz.analysis import Transfer
from s3pet_viz.errors import ConfigError

NAMES = ("a", "b", "c", "d")


def score(source, target, seed, draw):
    """The nearer in the alphabet, the better; best at home."""
    return 0.9 - 0.1 * abs(ord(source[0]) - ord(target[0])) + 0.001 * seed if len(source) == 1 else 0.5


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return Transfer(write_study(tmp_path_factory.mktemp("study") / "s", score, targets=NAMES, sources=NAMES))


def nearness(sign: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame([[sign * -abs(ord(s) - ord(t)) for t in NAMES] for s in NAMES], index=NAMES, columns=NAMES)


def test_an_agreement_that_says_it_all_and_one_that_says_the_opposite(matrix):
    for value in ("score", "loss"):  # less loss is better
        assert matrix.foretold_by(nearness(), value=value).mean == pytest.approx(1)
        assert matrix.foretold_by(nearness(-1), value=value).mean == pytest.approx(-1)
    # b and c have two sources that are equally near; the diagonal is not asked
    own = nearness()
    for name in NAMES:
        own.loc[name, name] = -99.0
    assert matrix.foretold_by(own).n == 4
    assert matrix.foretold_by(own).mean == pytest.approx(1)


def test_by_hand_for_one_target_turned_round(matrix):
    made = nearness()
    made.loc[["b", "c", "d"], "a"] = [1.0, 2.0, 3.0]  # the score falls from b to d
    found = matrix.foretold_by(made)
    assert found.mean == pytest.approx((3 * 1 - 1) / 4)
    assert found.low < found.mean < found.high


def test_too_few(matrix):
    with pytest.raises(ConfigError, match="agreement: expected it for at least two targets of a, b, c, d, found 0"):
        matrix.foretold_by(nearness().iloc[:2])
    flat = nearness() * 0
    with pytest.raises(ConfigError, match="found 0"):
        matrix.foretold_by(flat)
    with pytest.raises(ConfigError, match="found 0"):  # a consensus, say, is no task
        matrix.foretold_by(nearness().iloc[:, :2])
