"""How a command ends: with its answer, or with one line on standard error and an exit status."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from api.running import services
from models.database.faults import first_line
from models.errors import WalletServiceError

P = ParamSpec("P")
R = TypeVar("R")


def concludes(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command tell a fault in one line, with exit status 1, and give back what it holds, however it ends."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:  # whoever read our answer has had enough of it: click knows how to end then
            raise
        except (WalletServiceError, SQLAlchemyError, RedisError, OSError) as error:
            raise click.ClickException(told(error)) from error
        finally:
            services().close()

    return wrapped


def told(error: Exception) -> str:
    """Say what went wrong in one line, with the driver's own words where there are any."""
    if not isinstance(error, WalletServiceError):
        return first_line(error)
    return f"{error} [{first_line(error)}]" if error.__cause__ else str(error)


def examples(*lines: str) -> str:
    """Lay out the end of a help text. A line with a backspace keeps click from filling the paragraph below it."""
    return "\b\n" + "\n".join(lines).replace("\n\n", "\n\n\b\n")
