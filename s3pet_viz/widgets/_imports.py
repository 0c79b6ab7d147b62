"""The optional packages that the views need, imported late."""

from __future__ import annotations

import importlib

from s3pet_viz.errors import MissingExtraError


def require_notebook() -> None:
    """Check that interactive figures can be made.

    Raises:
        MissingExtraError: says what to install.
    """
    for name in ("ipywidgets", "anywidget"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingExtraError(
                f"the interactive views need {name}, which is not installed: pip install 's3pet_viz[notebook]'"
            ) from None
