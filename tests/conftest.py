"""Tiny backbones on disk, shared by all tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """``tiny_folder("bert")``: a folder with a tiny backbone of that form, made once per session."""
    made: dict[str, Path] = {}

    def folder(form: str) -> Path:
        if form not in made:
            made[form] = save_tiny(form, tmp_path_factory.mktemp(f"tiny-{form}"))
        return made[form]

    return folder
