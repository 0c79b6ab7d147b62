"""An option is a dataclass field that says its default, help, bounds and choices once: the checks, the command line,
`launch`, the notebook form and the signatures of functions are made from it."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

from s3pet_viz.config import checks
from s3pet_viz.errors import ConfigError

#: The default of an option that must be given.
REQUIRED = inspect.Parameter.empty
T = TypeVar("T")
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What there is to know of one option.

    Attributes:
        help: what it does, without its choices and default.
        unset: what None means, where that is its default.
        least: the smallest whole number.
        zero: what 0 means, of a number that may be 0; others are positive. below: what a number stays under.
        choices: the words that it takes.
        check: makes the value that is kept of (name, value), or raises ConfigError: for what has no plain type.
        loads: it says how task and backbone are loaded.
        form: its first value in the notebook form (True: its default); None where the form does not show it.
        name, default, kind, optional: as the field has them (`options_of`); `REQUIRED` where it must be given.
    """

    help: str
    unset: str = ""
    least: int = 0
    zero: str = ""
    below: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[str, Any], Any] | None = None
    loads: bool = False
    form: Any = None
    name: str = ""
    default: Any = REQUIRED
    kind: type = str
    optional: bool = False

    def checked(self, value: Any) -> Any:
        """The value that is kept.

        Raises:
            ConfigError: it cannot be used; names the option.
        """
        if value is None and self.optional:
            return None
        if self.check is not None:
            return self.check(self.name, value)
        if self.kind is bool:
            return checks.flag(self.name, value)
        if self.kind is int:
            return checks.whole(self.name, value, self.least)
        if self.kind is float:
            under = "" if self.below is None else f" and below {self.below:g}"
            expected = f"0 ({self.zero}) or more{under}" if self.zero else "a positive number"
            made = checks.number(self.name, value, expected, open_end=not self.zero)
            if self.below is not None and made >= self.below:
                raise ConfigError(f"{self.name}: expected {expected}, found {value!r}")
            return made
        if self.choices:
            return checks.among(self.name, value, self.choices)
        if not isinstance(value, str):
            raise ConfigError(f"{self.name}: expected text, found {type(value).__name__}")
        return value

    @property
    def text(self) -> str:
        """Help, choices and default in one line."""
        choices = f" One of {', '.join(self.choices)}." if self.choices else ""
        shown = self.unset if self.default is None else "" if self.default is REQUIRED else str(self.default)
        return self.help + choices + (f" [default: {shown}]" if shown else "")


def option(default: Any = MISSING, **said: Any) -> Any:
    """A dataclass field with what `Option` holds; without a default it must be given."""
    return field(default=default, metadata={"option": Option(**said)})


def like(config: type, name: str, default: Any = MISSING, form: Any = None) -> Any:
    """A field as another class has it, with its default or another one."""
    found: Field[Any] = config.__dataclass_fields__[name]  # type: ignore[attr-defined]
    said = {"option": replace(found.metadata["option"], form=form)}
    return field(default=found.default if default is MISSING else default, metadata=said)


def options_of(config: Any) -> dict[str, Option]:
    """The options of a dataclass by name, in its order."""
    return _options_of(config)  # apart, for mypy takes no dataclass for a key of a cache


@cache
def _options_of(config: Any) -> dict[str, Option]:
    hints, made = typing.get_type_hints(config), {}
    for one in fields(config):
        optional = typing.get_origin(hints[one.name]) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hints[one.name]) if optional else (hints[one.name],)
        default = REQUIRED if one.default is MISSING else one.default
        made[one.name] = replace(
            one.metadata["option"], name=one.name, default=default, kind=kinds[0], optional=type(None) in kinds
        )
    return made


def config_of(config: type[C], options: Mapping[str, Any]) -> C:
    """The config of these options; a name that it lacks is a ConfigError."""
    known = options_of(config)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r} (expected one of {', '.join(known)})")
    return config(**options)


def check_options(config: Any) -> None:
    """Check every field of a frozen dataclass, and keep what its check makes of the value."""
    for name, one in options_of(type(config)).items():
        object.__setattr__(config, name, one.checked(getattr(config, name)))


def described(config: type[T]) -> type[T]:
    """Add the options' texts to a dataclass's docstring."""
    lines = [f"    {one.name}: {one.text}" for one in options_of(config).values()]
    config.__doc__ = "\n".join([inspect.cleandoc(config.__doc__ or ""), "", "Attributes:", *lines])
    return config


def with_keywords(function: F, more: Iterable[inspect.Parameter]) -> F:
    """The function, whose signature names what it takes of its ``**options``."""
    own = inspect.signature(function)
    *named, rest = own.parameters.values()
    function.__signature__ = own.replace(parameters=[*named, *more, rest])  # type: ignore[attr-defined]
    return function


def takes(config: type, *without: str) -> Callable[[F], F]:
    """Show the fields of a dataclass in the signature of a function that takes them as ``**options``."""

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        known = {name: one for name, one in options_of(config).items() if name not in without}
        hints: dict[str, Any] = config.__dataclass_fields__  # type: ignore[attr-defined]
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        own = [
            one.replace(default=known[one.name].default)
            if one.default is None and one.name in known and known[one.name].default is not REQUIRED
            else one
            for one in own
        ]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[name].type)
            for name, one in known.items()
            if name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=own + more)  # type: ignore[attr-defined]
        return function

    return shown
