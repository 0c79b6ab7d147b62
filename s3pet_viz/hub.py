"""Files on the Hugging Face hub: fetched (or taken from its cache, offline) by one commit, and uploaded with a card."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.files import located

CARD = "README.md"


def unreachable() -> bool:
    """Whether there is no way to the hub, in about a second: its own client tries each file for half a minute. False
    where its name is resolved, without a request; else that client (which may have a proxy) is asked twice.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False  # it is quick then, and says so
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
        return False
    except (OSError, UnicodeError):
        pass
    for again in (True, False):
        try:
            get_session().head(constants.ENDPOINT, timeout=5)
            return False
        except Exception:  # of whatever client it is
            time.sleep(1 if again else 0)
    return True


def folder_of(
    name: str | os.PathLike[str],
    files: Sequence[str],
    error: type[S3PETError],
    what: str,
    *,
    revision: str | None = None,
    **hub: Any,
) -> Path:
    """The local folder of these files: a folder as given, or one fetched from the hub.

    Args:
        name: a folder, or ``owner/name``. what: that is looked for, in words (``an adapter``).
        revision: branch, tag or commit of a hub repository.
        hub: further arguments of ``huggingface_hub.hf_hub_download`` (cache_dir, token, local_files_only).

    Raises:
        error: neither a folder nor a repository that can be reached and holds the files.
        ConfigError: a revision for a folder.
    """
    text = os.fspath(name)
    folder = located(text)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"revision: expected none for {what} in a folder ({folder}), found {revision!r}")
        return folder
    if isinstance(name, Path) or text.startswith((".", "~", os.sep)) or text.count("/") != 1:
        raise error(f"{text}: expected a folder or a name on the Hugging Face hub (owner/name), found neither")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # By commit, once one file has said which: a branch may move between two downloads.
    at = revision
    found = ""
    if cut_off := not hub.get("local_files_only") and unreachable():
        hub["local_files_only"] = True
    for file in files:
        try:
            found = hf_hub_download(text, file, revision=at, **hub)
        except (OSError, HfHubHTTPError, HFValidationError) as failure:  # OSError: no network, and not in the cache
            why = "it cannot be reached, and its cache has no such file" if cut_off else _first_line(failure)
            raise error(f"{text}: {file} cannot be fetched from the Hugging Face hub: {why}") from failure
        at = Path(found).parent.name
    return Path(found).parent


@dataclass(frozen=True)
class Parcel:
    """What is uploaded: the files that `write` puts into a folder, and a card. error: what a refusal raises."""

    write: Callable[[Path], object]
    files: Sequence[str]
    card: str
    error: type[S3PETError]


class OnHub:
    """What travels as a few small files."""

    def _parcel(self, repo_id: str) -> Parcel:
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        message: str = "Upload with s3pet_viz",
    ) -> str:
        """Upload to ``owner/name``: its files and a short card; the repository is made where there is none.

        Returns:
            The address of the commit.

        Raises:
            StructureError, AdapterError: the hub refuses or cannot be reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api, parcel = HfApi(token=token), self._parcel(repo_id)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            parcel.write(folder)
            (folder / CARD).write_text(parcel.card, encoding="utf-8")
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                sent: Any = {"folder_path": folder, "allow_patterns": [*parcel.files, CARD]}
                made = api.upload_folder(repo_id=repo_id, revision=revision, commit_message=message, **sent)
            except (OSError, HfHubHTTPError, HFValidationError) as failure:
                what, first = type(self).__name__.lower(), _first_line(failure)
                raise parcel.error(f"{repo_id}: the Hugging Face hub did not take the {what}: {first}") from failure
        return str(made)


def card(repo_id: str, backbone: str, words: str, use: str) -> str:
    """A short model card. words: what it holds. use: the line of Python that opens it."""
    # Only a name that may be one on the hub; a path of this machine is nobody's business.
    known = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", backbone) and not Path(backbone).exists()
    base = f"base_model: {backbone}\n" if known else ""
    return f"""---
library_name: s3pet_viz
{base}tags: [parameter-efficient-tuning, s3pet]
---

# {repo_id.split("/")[-1]}

{words}

```python
import s3pet_viz as s3

{use}
```
"""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
