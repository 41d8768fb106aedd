"""JSON into dataclasses. What is unknown is left out: a newer service may say more than this client knows."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, TypeVar

T = TypeVar("T")

_Reader = Callable[[Any], Any]


class Unreadable(ValueError):
    """A field is missing, or is not what it should be."""


def decode(kind: type[T], value: object) -> T:
    """Read a value as this type: a dataclass, or what its fields may be.

    64-bit ids are strings of digits in JSON, since JavaScript loses digits above 2^53, and integers here. A field named
    ``from_`` is spelled ``from``. A field that is missing is its default, or None if it may be that.

    Raises:
        Unreadable: it cannot be read so.
    """
    of_any: Any = kind
    read: T = _reader(of_any)(value)
    return read


@functools.cache
def _reader(kind: Any) -> _Reader:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        (inner,) = [each for each in arguments if each is not types.NoneType]
        return functools.partial(_optional, _reader(inner))
    if origin is tuple:
        return functools.partial(_list, _reader(arguments[0]))
    if origin is dict:
        return functools.partial(_pairs, _reader(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return functools.partial(_object, kind)
    return functools.partial(_plain, kind)


def _plain(kind: Any, value: object) -> object:
    try:
        if kind is Any:
            return value
        if kind is int and isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
        if kind in {datetime, date} and isinstance(value, str):
            return kind.fromisoformat(value)
    except ValueError as error:
        raise Unreadable(str(error)) from error
    # To Python a boolean is an integer.
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise Unreadable(f"{type(value).__name__} in place of {kind.__name__}")


def _optional(inner: _Reader, value: object) -> object:
    return None if value is None else inner(value)


def _list(inner: _Reader, value: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise Unreadable(f"{type(value).__name__} in place of an array")
    return tuple(map(inner, value))


def _pairs(inner: _Reader, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"{type(value).__name__} in place of an object")
    return {name: inner(each) for name, each in value.items()}


@functools.cache
def _fields(kind: Any) -> list[tuple[str, str, _Reader, Any]]:
    """Return of each field its name, how it is spelled, how it is read, and what it is when it is missing."""
    kinds = typing.get_type_hints(kind)
    found = []
    for each in dataclasses.fields(kind):
        missing = each.default
        if missing is dataclasses.MISSING and types.NoneType in typing.get_args(kinds[each.name]):
            missing = None
        found.append((each.name, each.name.rstrip("_"), _reader(kinds[each.name]), missing))
    return found


def _object(kind: Any, value: object) -> object:
    if not isinstance(value, dict):
        raise Unreadable(f"{type(value).__name__} in place of an object")
    read = {}
    for name, spelled, reader, missing in _fields(kind):
        if spelled in value:
            read[name] = reader(value[spelled])
        elif missing is dataclasses.MISSING:
            raise Unreadable(f"{kind.__name__} without {spelled}")
        else:
            read[name] = missing
    return kind(**read)
