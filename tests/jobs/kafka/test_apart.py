"""Questions that may end the process that asks them."""

import ast
import os
import time
from pathlib import Path

import pytest

from config import Settings
from jobs.kafka import apart, group
from jobs.transport import TransportAway
from tests.project import ROOT

# What an admin client asks a group's coordinator. Each of these has ended processes.
DEADLY = {
    "alter_consumer_group_offsets",
    "delete_consumer_group_offsets",
    "delete_consumer_groups",
    "describe_consumer_groups",
    "list_consumer_group_offsets",
}
AT_ALL = {Path("jobs/kafka/group.py"), Path("tests/kafka_broker.py")}


def _who_asks() -> int:
    return os.getpid()


def _talk() -> None:
    os.write(1, b"so it goes")
    os.abort()


def _hang() -> None:
    time.sleep(60)


def _fail() -> None:
    raise TimeoutError("nobody there")


def test_another_process_asks() -> None:
    assert apart.ask(_who_asks, timeout_s=30) != os.getpid()


def test_it_may_die_of_the_question(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TransportAway, match="broken down"):
        apart.ask(_talk, timeout_s=30)
    assert capfd.readouterr() == ("", "")


def test_no_question_takes_longer_than_it_may() -> None:
    with pytest.raises(TransportAway, match="no answer"):
        apart.ask(_hang, timeout_s=0.2)


def test_why_there_is_no_answer_is_told() -> None:
    with pytest.raises(TransportAway, match="nobody there"):
        apart.ask(_fail, timeout_s=30)


def test_a_group_of_brokers_that_are_away_is_not_found() -> None:
    with pytest.raises(TransportAway):
        group.find_group(Settings.model_construct(kafka_brokers="127.0.0.1:1"))


def test_nobody_else_asks_a_groups_coordinator() -> None:
    folders = [each for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith(".")]
    programs = [path for folder in folders for path in folder.rglob("*.py")]
    asking = {path.relative_to(ROOT) for path in programs if DEADLY & _attributes(path)}
    assert asking == AT_ALL


def _attributes(path: Path) -> set[str]:
    return {each.attr for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Attribute)}
