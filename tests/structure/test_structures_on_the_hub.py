"""Structures travel without weights: from a folder, from the hub's cache at a revision, and up to the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

import s3pet_viz as s3
from s3pet_viz.errors import ConfigError, StructureError
from s3pet_viz.structure import Structure


@pytest.fixture
def structures() -> list[Structure]:
    return [s3.open_run(name).structure() for name in ("similarity-0.2pct-s0", "sentiment-0.2pct-s0")]


def test_from_a_folder_and_from_the_cache_at_a_revision(structures, tmp_path):
    repo = tmp_path / "cache" / "models--someone--where"
    (repo / "refs").mkdir(parents=True)
    for made, ref, commit in zip(structures, ("main", "v2"), ("a" * 40, "b" * 40), strict=True):
        (repo / "snapshots" / commit).mkdir(parents=True)
        made.save(repo / "snapshots" / commit / "structure.json")
        (repo / "refs" / ref).write_text(commit)
    cached = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    for revision, expected in ((None, 0), ("v2", 1), ("b" * 40, 1)):
        made = Structure.from_pretrained("someone/where", revision=revision, **cached)
        assert made == structures[expected]
        assert made.budget == structures[expected].budget
    assert Structure.from_pretrained(repo / "snapshots" / ("a" * 40)) == structures[0]
    with pytest.raises(StructureError, match="someone/where: structure.json cannot be fetched"):
        Structure.from_pretrained("someone/where", revision="v3", **cached)
    with pytest.raises(StructureError, match="expected a folder or a name on the Hugging Face hub"):
        Structure.from_pretrained("./nothing")
    with pytest.raises(ConfigError, match="revision: expected none for a structure in a folder"):
        Structure.from_pretrained(repo / "snapshots" / ("a" * 40), revision="main")
    (repo / "snapshots" / ("a" * 40) / "structure.json").write_text("{}")
    with pytest.raises(StructureError, match="structure.json"):
        Structure.from_pretrained("someone/where", **cached)


def test_up_and_back(structures, monkeypatch, tmp_path):
    import huggingface_hub

    class Api:
        def __init__(self, token=None):
            assert token == "t"

        def create_repo(self, repo_id, **options):
            assert (repo_id, options) == ("someone/where", {"private": True, "exist_ok": True})

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, **options):
            assert sorted(allow_patterns) == sorted(p.name for p in Path(folder_path).iterdir())
            for file in Path(folder_path).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert structures[0].push_to_hub("someone/where", private=True, token="t").endswith("commit/1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "structure.json"]
    assert Structure.from_pretrained(tmp_path) == structures[0]
    card = (tmp_path / "README.md").read_text()
    assert f"{structures[0].n_params:,} parameters" in card
    assert 's3.Structure.from_pretrained("someone/where")' in card

    def refuse(self, repo_id, **_options):
        raise huggingface_hub.errors.HFValidationError("no such name")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(StructureError, match="someone/where: the Hugging Face hub did not take the structure: no such"):
        structures[0].push_to_hub("someone/where", token="t")
