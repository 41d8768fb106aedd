import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import __main__ as bench
from bench import machine
from bench.figures import BenchError, Figure, Plan, Values


class _Failing:
    """Found once; from then on it cannot be measured."""

    name = "failing"
    figures = (Figure(key="failing", label="failing", unit="/s"),)

    def __init__(self, takes: int) -> None:
        self._left = takes

    def take(self, _site: object, _plan: Plan) -> Values:
        if not self._left:
            raise BenchError("the books do not balance")
        self._left -= 1
        return {"failing": 3.0}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results go; nothing is really started."""

    @contextmanager
    def site(_settings: object) -> Iterator[Any]:
        yield SimpleNamespace(home=tmp_path, durability=dict)

    monkeypatch.setattr(bench, "Site", site)
    monkeypatch.setattr(machine, "describe", lambda _site: {})
    monkeypatch.setattr(machine, "idle_share", lambda: 1.0)
    monkeypatch.setattr(os, "umask", lambda _mask: 0)  # it would stay for all other tests
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "JSON_FILE", tmp_path / "bench.json")
    return tmp_path / "bench.json"


def _have(monkeypatch: pytest.MonkeyPatch, measure: _Failing) -> None:
    monkeypatch.setattr(bench, "chosen", lambda _words: (measure,))


def test_a_round_that_fails_takes_nothing_from_those_before_it(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _have(monkeypatch, _Failing(takes=2))
    assert bench.main(["--rounds", "3", "--only", "failing"]) == 1
    found = json.loads(written.read_text())
    assert (len(found["rounds"]), found["summary"][0]["median"]) == (2, 3.0)
    assert "of the 2 rounds before that" in capsys.readouterr().err


def test_without_a_whole_round_there_is_no_result(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _have(monkeypatch, _Failing(takes=0))
    assert bench.main(["--only", "failing"]) == 1
    assert not written.exists()
    assert "the books do not balance" in capsys.readouterr().err


class _OverKafka(_Failing):
    needs_kafka = True


def test_without_java_one_line_says_that_nothing_is_measured_over_kafka(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_lack", lambda: "java is not on the PATH")
    monkeypatch.setattr(bench, "chosen", lambda _words: (_Failing(takes=1), _OverKafka(takes=0)))
    assert bench.main(["--rounds", "1", "--only", "failing"]) == 0
    assert capsys.readouterr().err == "bench: nothing is measured over Kafka: java is not on the PATH\n"
    _have(monkeypatch, _OverKafka(takes=0))
    assert bench.main(["--only", "failing"]) == 0
    assert json.loads(written.read_text())["summary"][0]["median"] == 3.0


class _Rare(_Failing):
    rounds = 1


@pytest.mark.parametrize(("words", "taken"), [([], 1), (["--only", "failing"], 3)])
def test_what_takes_long_is_taken_in_fewer_rounds_unless_it_is_asked_for(
    written: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], taken: int
) -> None:
    monkeypatch.setattr(bench, "_draw", lambda *_: None)
    monkeypatch.setattr(bench, "chosen", lambda _words: (_Often(), _Rare(takes=9)))
    assert bench.main(["--rounds", "3", *words]) == 0
    rounds = json.loads(written.read_text())["rounds"]
    assert [len(each["values"]) for each in rounds] == [2] * taken + [1] * (3 - taken)


class _Often:
    name = "often"
    figures = (Figure(key="often", label="often", unit="/s"),)

    def take(self, _site: object, _plan: Plan) -> Values:
        return {"often": 1.0}


@pytest.mark.parametrize(("words", "is_patched"), [([], False), (["--gevent"], True), (["--no-gevent"], False)])
def test_how_calls_are_made_and_what_is_set_is_kept_with_the_result(
    written: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], is_patched: bool
) -> None:
    _have(monkeypatch, _Failing(takes=1))
    assert bench.main(["--quick", "--set", "BATCH_SIZE=500", *words]) == 0
    plan = json.loads(written.read_text())["plan"]
    assert (plan["rounds"], plan["is_patched"], plan["settings"]) == (1, is_patched, {"BATCH_SIZE": "500"})
