"""docs/families.md: what tools/try_all_families.py found of every text family of transformers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Model types that have to work, whatever becomes of others.
NAMED = (
    "qwen2 qwen3 qwen3_moe gemma2 gemma3_text llama phi3 smollm3 olmo2 mixtral gpt_neox falcon bloom starcoder2 modernbert albert "
    "mpnet longformer deberta roformer umt5 mbart pegasus marian t5 bart bert roberta deberta-v2 distilbert gpt2 opt mistral gemma"
).split()


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import try_all_families

        yield try_all_families


@pytest.fixture(scope="module")
def rows(tool):
    return [json.loads(line) for line in tool.RESULTS.read_text().splitlines()]


def test_the_page_is_made_of_the_results(tool, rows):
    assert tool.page(rows) == tool.PAGE.read_text(encoding="utf-8")


def test_every_class_was_tried_once(tool, rows):
    tried = Counter(tool.Case(row["kind"], row["head"], row["name"]) for row in rows)
    assert set(tried.values()) == {1}
    if {row["with"] for row in rows} == {tool.versions()}:  # other versions have other classes
        assert list(tried) == list(tool.cases())


@pytest.mark.parametrize("head", ["all", "classification", "causal", "sequence to sequence"])
def test_nine_of_ten_work(rows, head):
    own = [row for row in rows if head in ("all", row["head"])]
    built = [row for row in own if "built" in row]
    assert len(built) >= 0.85 * len(own)
    assert sum("tuned" in row for row in built) >= 0.9 * len(built)
    assert all(row["reason"] and row["stopped"] for row in own if "tuned" not in row)


@pytest.mark.parametrize("kind", NAMED)
def test_these_families_work(rows, kind):
    own = [row for row in rows if row["kind"] == kind]
    assert own
    assert all("tuned" in row for row in own)


@pytest.mark.parametrize("kind", ["deepseek_v3", "t5gemma", "zamba2"])
def test_a_row_is_what_happens(tool, rows, kind):
    row = next(row for row in rows if row["kind"] == kind)
    found = tool.try_case(tool.Case(kind, row["head"], row["name"]))
    assert {name: found.get(name) for name in ("positions", "names", "searched")} == {
        name: row[name] for name in ("positions", "names", "searched")
    }
    assert "tuned" in found
