"""Reading settings from the environment: the first that is wrong is told in one line that names it."""

import sys
from typing import Any, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)


class Environment(BaseSettings):
    """What all settings have in common."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_blank(cls, value: object) -> object:
        """Refuse what nobody can have meant, and what would look like any other value in a list of them."""
        if isinstance(value, str) and value and not (value.strip() and value.isprintable()):
            raise ValueError("must have something other than blanks, and no control characters")
        return value


class ConfigurationError(Exception):
    """A setting is missing or wrong."""


def load(kind: type[S], **given: Any) -> S:
    """Read settings from the environment; those that are given here win.

    Raises:
        ConfigurationError: one line naming the first setting that is missing or wrong, never its value.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"][:1]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {message}" if name else message) from None


def load_or_exit(kind: type[S]) -> S:
    """:func:`load` for entry points: a wrong setting is one line on stderr and exit status 2."""
    try:
        return load(kind)
    except ConfigurationError as error:
        sys.exit(complain(str(error)))


def complain(message: str) -> int:
    """Tell what is wrong with the settings, and return the exit status that goes with it."""
    print(f"configuration error: {message}", file=sys.stderr)
    return 2
