"""Every setting stands in the reference with its true default and bounds, and nothing else does."""

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from config import BrokersSettings, MetricsSettings, PrepareSettings, Settings, StackSettings
from ops.compose.secret_files import SECRETS
from tests.docs.pages import REFERENCE, by_name, code, rows, section
from tests.project import ROOT

PAGE = REFERENCE / "settings.md"
COMPOSE = "docker compose"
KINDS: list[type[BaseSettings]] = [Settings, PrepareSettings, StackSettings, BrokersSettings, MetricsSettings]
FIELDS = [
    pytest.param(kind, name, field, id=f"{kind.__name__}-{name}")
    for kind in KINDS
    for name, field in kind.model_fields.items()
]
DOCUMENTED = by_name(rows(PAGE.read_text().replace(section(PAGE, COMPOSE), "")), "name")
IN_COMPOSE = by_name(rows(section(PAGE, COMPOSE)), "name")
NOT_SET = "\N{EN DASH}"
# A default that another setting gives: `OTHER + n`.
DERIVED = re.compile(r"([A-Z_]+) \+ ([0-9]+)")
# What a setting is when nobody sets it, if it has no value.
NOTHING = (PydanticUndefined, None, (), SecretStr(""))
REQUIRED = {"database_url": "postgresql://nowhere", "redis_url": "redis://nowhere"}


def test_the_reference_has_every_setting_and_no_other() -> None:
    assert set(DOCUMENTED) == {name.upper() for kind in KINDS for name in kind.model_fields}


@pytest.mark.parametrize(("kind", "name", "field"), FIELDS)
def test_a_default_is_what_the_reference_says(kind: type[BaseSettings], name: str, field: FieldInfo) -> None:
    told = DOCUMENTED[name.upper()]["default"]
    if derived := DERIVED.fullmatch(told):
        other, more = derived[1].lower(), int(derived[2])
        for value in (kind.model_fields[other].default, 5_000):
            set_out: dict[str, Any] = REQUIRED | {other: value}
            assert getattr(kind(**set_out), name) == value + more
    elif told == NOT_SET:
        assert field.default_factory is None
        assert field.default in NOTHING
    else:
        given: dict[str, Any] = REQUIRED | {name: code(told)}
        assert getattr(kind(**given), name) == field.default


@pytest.mark.parametrize(("kind", "name", "field"), FIELDS)
def test_bounds_are_what_the_reference_says(kind: type[BaseSettings], name: str, field: FieldInfo) -> None:
    assert DOCUMENTED[name.upper()].get("bounds", "") == _bounds(field), kind


def _bounds(field: FieldInfo) -> str:
    said = [*field.metadata, *_said_inside(field.annotation)]
    least = [each.ge for each in said if isinstance(each, annotated_types.Ge)]
    most = [each.le for each in said if isinstance(each, annotated_types.Le)]
    return f"{least[0]:.0f} to {most[0]:.0f}" if least or most else ""


def _said_inside(kind: Any) -> Iterator[object]:
    """What is said of one of several kinds, such as of the number in ``Annotated[int, Field(ge=1)] | None``."""
    for each in get_args(kind) if get_origin(kind) in (UnionType, Union) else ():
        for said in get_args(each)[1:] if get_origin(each) is Annotated else ():
            yield from said.metadata if isinstance(said, FieldInfo) else (said,)


def test_what_compose_reads_is_what_the_reference_says() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    read = {name: f"`{default}`" for name, default in re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", compose)}
    read |= {secret.setting: "generated" if secret.generated else NOT_SET for secret in SECRETS}
    read["GRAFANA_PASSWORD"] = "generated"
    assert {name: row["default"] for name, row in IN_COMPOSE.items()} == read
