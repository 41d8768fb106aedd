"""A company: what its members ask for is asked in one go, each gets his own answer, and nobody else is in it."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from models import company
from models.ledger.groups import Groups, NotTakenError
from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine, Script

ECHO = Script("return ARGV[1]")
FAIL = Script("return redis.error_reply('no')")


class Oracle:
    """Answers with what it is asked, and remembers what came together."""

    def __init__(self) -> None:
        self.heard: list[list[Any]] = []

    def answer_together(self, questions: Sequence[Any]) -> Sequence[Any]:
        self.heard.append(list(questions))
        if "nothing" in questions:
            raise ConnectionError
        return [ZeroDivisionError() if question == "fail" else question for question in questions]


def results_of(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return or raise, in one company."""
    found: list[Any] = [None] * len(calls)

    def keep(number: int, call: Callable[[], Any]) -> None:
        try:
            found[number] = call()
        except Exception as error:  # noqa: BLE001 - it is looked at
            found[number] = type(error)

    company.keep_company([partial(keep, number, call) for number, call in enumerate(calls)])
    return found


def test_what_is_asked_at_the_same_time_is_asked_together_and_each_has_his_own_answer() -> None:
    oracle = Oracle()

    def twice() -> str:
        return str(company.ask(oracle, "a")) + str(company.ask(oracle, "b"))

    assert results_of(twice, lambda: company.ask(oracle, "c"), lambda: "nothing to ask", twice) == [
        "ab", "c", "nothing to ask", "ab",
    ]  # fmt: skip
    assert oracle.heard == [["a", "c", "a"], ["b", "b"]]


def test_those_who_ask_others_are_not_mixed_up() -> None:
    first, second = Oracle(), Oracle()
    asked = results_of(lambda: company.ask(first, 1), lambda: company.ask(second, 2), lambda: company.ask(first, 3))
    assert asked == [1, 2, 3]
    assert (first.heard, second.heard) == ([[1, 3]], [[2]])


def test_an_error_is_his_who_asked_and_one_of_all_is_everybodys() -> None:
    oracle = Oracle()
    assert results_of(lambda: company.ask(oracle, "fail"), lambda: company.ask(oracle, 1)) == [ZeroDivisionError, 1]
    assert results_of(lambda: company.ask(oracle, "nothing"), lambda: company.ask(oracle, 1)) == [ConnectionError] * 2


def test_nobody_is_in_a_company_who_has_not_been_taken_into_one() -> None:
    seen: list[bool] = []

    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: seen.append(company.is_in_company()))
        thread.start()
        thread.join()

    assert not company.is_in_company()
    assert results_of(company.is_in_company, elsewhere) == [True, None]
    assert seen == [False]
    assert not company.is_in_company()


def test_a_line_to_redis_asks_for_all_of_them_in_one_round_trip(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.script_flush()
    line = RedisLine(connect_redis(redis_url), [ECHO, FAIL])
    trips: list[int] = []
    exchange = line._exchange

    def note(commands: Sequence[Any]) -> list[Any]:
        trips.append(len(commands))
        return exchange(commands)

    monkeypatch.setattr(line, "_exchange", note)
    asked = results_of(
        lambda: line.ask(("SET", "a", 1), ("INCR", "a")),
        lambda: line.ask(FAIL.call([])),
        lambda: line.ask(ECHO.call([], "x"), ("GET", "nothing")),
        lambda: line.ask(("INCR", "b")),
    )
    assert asked == [[b"OK", 2], ResponseError, [b"x", None], [1]]
    assert trips == [6]
    assert (line.connected, line.ask(("PING",))) == (1, [b"PONG"])
    line.close()


def test_without_an_answer_from_redis_each_of_them_hears_of_it() -> None:
    line = RedisLine(connect_redis("redis://127.0.0.1:1"), [])
    assert results_of(lambda: line.ask(("PING",)), lambda: line.ask(("PING",))) == [redis.ConnectionError] * 2


def test_who_joins_in_a_company_is_in_one_group_with_it() -> None:
    groups: list[list[str]] = []

    def run(group: Sequence[str]) -> None:
        groups.append(list(group))
        if "raises" in group:
            raise ZeroDivisionError

    made = Groups(run, most=3, patience_s=1.0)
    assert results_of(*(partial(made.join, member) for member in "abcde")) == [None] * 5
    assert groups == [["a", "b", "c"], ["d", "e"]]
    # What a run raises reaches who leads it alone, as everywhere.
    assert results_of(lambda: made.join("raises"), lambda: made.join("x")) == [ZeroDivisionError, None]
    made.join("alone")
    assert groups[-1] == ["alone"]


def test_who_joins_in_a_company_waits_for_a_group_that_runs_elsewhere() -> None:
    groups: list[list[str]] = []
    began, goes_on = threading.Event(), threading.Event()

    def run(group: Sequence[str]) -> None:
        groups.append(list(group))
        began.set()
        assert goes_on.wait(30)

    made = Groups(run, most=10, patience_s=30.0)
    other = threading.Thread(target=made.join, args=("other",))
    other.start()
    assert began.wait(30)
    found: list[Any] = []
    mine = threading.Thread(target=lambda: found.extend(results_of(lambda: made.join("a"), lambda: made.join("b"))))
    mine.start()
    while len(made._waiting) < 2:
        pass
    goes_on.set()
    for thread in (other, mine):
        thread.join(30)
    assert (groups, found) == ([["other"], ["a", "b"]], [None, None])


def test_who_joins_in_a_company_waits_no_longer_than_alone() -> None:
    began, goes_on = threading.Event(), threading.Event()

    def run(_group: Sequence[str]) -> None:
        began.set()
        assert goes_on.wait(60)

    made = Groups(run, most=10, patience_s=0.5)
    other = threading.Thread(target=made.join, args=("other",))
    other.start()
    assert began.wait(30)
    since = time.monotonic()
    assert results_of(*(partial(made.join, str(number)) for number in range(30))) == [NotTakenError] * 30
    assert time.monotonic() - since < 10  # and not 15, half a second each
    goes_on.set()
    other.join(30)


def test_what_a_call_returns_is_no_question() -> None:
    oracle = Oracle()
    company.keep_company([lambda: ("not", "a", "question"), lambda: company.ask(oracle, 1)])
    assert oracle.heard == [[1]]
