"""Running commands in this process, and the same through a real ``python -m flask``."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import Engine, text

from tests import nursery
from tests.books import check_books
from tests.project import ROOT


class Runner(Protocol):
    """Runs one command of the application."""

    def __call__(self, *arguments: object, app: Flask | None = None, stdin: str | bytes | None = None) -> Result:
        """Run it; a result's ``stdout`` and ``stderr`` are apart."""


@pytest.fixture
def run(app: Flask) -> Runner:
    """Run commands of ``app``, on empty tables; nothing but an exit ends them."""
    default = app

    def run(*arguments: object, app: Flask | None = None, stdin: str | bytes | None = None) -> Result:
        result = (app or default).test_cli_runner().invoke(args=[str(each) for each in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def sound_books(engine: Engine) -> Iterator[None]:
    """After the test, whatever it did, the books balance."""
    yield
    check_books(engine)


class Process(Protocol):
    """Runs ``python -m flask`` as a user does."""

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it in the project's root, with nothing in its environment but what is given."""


@pytest.fixture
def flask(tmp_path: Path) -> Process:
    """A command line on no service at all, unless the environment names one."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        return nursery.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=ROOT,
            env={**kept, "WALLET_HOME": str(tmp_path / "home"), **environment},
            stdin=subprocess.DEVNULL,
            text=True,
        )

    return run


def held_nodes(engine: Engine) -> int:
    """How many Snowflake nodes are leased now."""
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM snowflake_nodes WHERE expires_at > now()")
        count: int = connection.execute(query).scalar_one()
        return count
