"""Checks of options that any caller, file or command line may have given; each error names the option."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from s3pet_viz.errors import ConfigError, short

#: More steps, rows or bits of a seed than any computer takes; what is larger would only fail later.
MOST = 2**53


def whole(name: str, value: Any, least: int) -> int:
    """A whole number (NumPy's too) from `least` on.

    Raises:
        ConfigError: it is not.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, found {short(value)}")
    if found > MOST:
        raise ConfigError(f"{name}: expected at most 2^53, found {short(value)}")
    return found


def number(name: str, value: Any, expected: str, *, least: float = 0.0, open_end: bool = False) -> int | float:
    """A finite number from `least` on, or (`open_end`) above it.

    Args:
        expected: the words of the message.

    Raises:
        ConfigError: it is not.
    """
    good = not isinstance(value, bool) and (isinstance(value, (int, float)) or hasattr(value, "__float__"))
    try:
        as_float = float(value) if good and not isinstance(value, str) else math.nan
    except (TypeError, ValueError, OverflowError):
        as_float = math.nan
    if not (math.isfinite(as_float) and (as_float > least if open_end else as_float >= least)):
        raise ConfigError(f"{name}: expected {expected}, found {short(value)}")
    return value if isinstance(value, int) else as_float


def flag(name: str, value: Any) -> bool:
    """True or False (NumPy's too).

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise ConfigError(f"{name}: expected true or false, found {short(value)}")
    return bool(value)


def among(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of these words.

    Raises:
        ConfigError: it is not.
    """
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{name}: expected one of {', '.join(words)}, found {short(value)}")
    return value


def seed_list(seeds: Any) -> list[int]:
    """0, 1, ... up to a number of seeds, or these seeds, each once.

    Raises:
        ConfigError: none, or one that is no whole number from 0.
    """
    several = isinstance(seeds, Iterable) and not isinstance(seeds, (str, bytes, dict))
    made = list(seeds) if several else list(range(whole("seeds", seeds, 1)))
    if not made:
        raise ConfigError("seeds: expected at least one, found none")
    return list(dict.fromkeys(whole("seeds", seed, 0) for seed in made))


def pairs(name: str, value: Any, expected: str) -> dict[str, str]:
    """A mapping of texts, or its text form ``a=b,c=d``; each value once.

    Raises:
        ConfigError: it is neither.
    """
    found = value
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        found = {key.strip(): text.strip() for key, _, text in parts} if all(mark for _, mark, _ in parts) else None
    good = isinstance(found, Mapping) and all(isinstance(x, str) and x for pair in found.items() for x in pair)
    if not good or not found or len(set(found.values())) < len(found):
        raise ConfigError(f"{name}: expected {expected}, found {short(value)}")
    return dict(found)
