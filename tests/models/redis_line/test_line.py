"""One round trip, whatever the server has forgotten; and nothing is ever sent twice."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from redis.exceptions import ResponseError

from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine, Script
from ops.local.processes import wait_for
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
ECHO = Script("return ARGV[1]")


@pytest.fixture
def line(redis_client: redis.Redis, redis_proxy: TcpProxy) -> Iterator[RedisLine]:
    """A line through the proxy to a server that knows no script."""
    redis_client.script_flush()
    line = RedisLine(connect_redis(redis_proxy.url), [COUNT, ECHO])
    yield line
    line.close()


def count_of(client: redis.Redis) -> int:
    return int(client.get("n") or 0)


def test_a_server_that_knows_no_script_learns_it(line: RedisLine, redis_client: redis.Redis) -> None:
    assert line.ask(COUNT.call(["n"], 5)) == [5]
    redis_client.script_flush()
    assert line.ask(COUNT.call(["n"], 5)) == [10]


def test_of_several_commands_only_those_it_did_not_know_are_run_after_it_has_learnt(
    line: RedisLine, redis_client: redis.Redis
) -> None:
    redis_client.set("m", 0)
    mixed = [("INCR", "m"), COUNT.call(["n"], 5), ("INCR", "m"), ECHO.call([], "x"), COUNT.call(["n"], 2)]
    assert line.ask(*mixed) == [1, 5, 2, b"x", 7]
    redis_client.script_flush()
    redis_client.script_load(ECHO.text)
    assert line.ask(*mixed) == [3, 12, 4, b"x", 14]


def test_the_error_of_one_command_is_raised_and_the_connection_stays(
    line: RedisLine, redis_client: redis.Redis, redis_proxy: TcpProxy
) -> None:
    redis_client.rpush("list", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        line.ask(("INCR", "n"), ("INCR", "list"), ("INCR", "n"))
    assert line.ask(("INCR", "n")) == [3]
    assert redis_proxy.accepted == 1


def test_a_lost_reply_is_an_error_and_the_command_is_not_sent_again(
    line: RedisLine, redis_client: redis.Redis, redis_proxy: TcpProxy
) -> None:
    line.ask(COUNT.call(["n"], 1))
    redis_proxy.lose_reply_to(lambda data: b"EVALSHA" in data)
    with pytest.raises(redis.ConnectionError):
        line.ask(COUNT.call(["n"], 1))
    assert count_of(redis_client) == 2
    assert line.ask(COUNT.call(["n"], 1)) == [3]


def test_a_connection_whose_answer_came_too_late_is_not_used_again(
    line: RedisLine, redis_client: redis.Redis, redis_proxy: TcpProxy
) -> None:
    line.ask(ECHO.call([], "before"))
    redis_proxy.hold()
    with pytest.raises(redis.TimeoutError):
        line.ask(("INCR", "n"))
    redis_proxy.resume()
    assert wait_for(lambda: count_of(redis_client) == 1, PATIENCE_S)
    # The reply to the one before would be taken for the reply to this.
    assert line.ask(ECHO.call([], "after")) == [b"after"]


def test_a_server_that_hung_up_while_nobody_asked_costs_no_error(line: RedisLine, redis_proxy: TcpProxy) -> None:
    line.ask(ECHO.call([], "x"))
    (wire,) = line._idle
    redis_proxy.break_all()
    assert wait_for(wire.has_hung_up, PATIENCE_S)
    assert line.ask(ECHO.call([], "x")) == [b"x"]


def test_it_has_as_many_connections_as_ever_asked_at_once_and_mixes_up_no_replies(line: RedisLine) -> None:
    start = threading.Barrier(8)

    def ask_often(number: int) -> set[bytes]:
        start.wait()
        return {line.ask(ECHO.call([], number), ("ECHO", number))[step % 2] for step in range(200)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask_often, range(8))) == [{str(number).encode()} for number in range(8)]
    assert 1 <= len(line._idle) <= 8


def test_who_answers_on_a_new_connection_is_told_before_it_is_used(line: RedisLine, redis_proxy: TcpProxy) -> None:
    met: list[bytes] = []
    line.meet = met.append
    line.ask(ECHO.call([], "x"))
    line.ask(ECHO.call([], "x"))
    assert len(met) == 1
    assert b"\nrun_id:" in met[0]
    redis_proxy.break_all()
    assert wait_for(line._idle[0].has_hung_up, PATIENCE_S)
    line.ask(ECHO.call([], "x"))
    assert len(met) == 2


def test_no_connection_is_made_before_something_is_asked_and_none_is_left_when_it_is_closed(
    redis_client: redis.Redis, redis_url: str
) -> None:
    name = "test-redis-line"
    line = RedisLine(redis.Redis.from_url(redis_url, client_name=name), [ECHO])
    assert [each for each in redis_client.client_list() if each["name"] == name] == []
    line.ask(("PING",))
    line.close()
    assert wait_for(lambda: not [each for each in redis_client.client_list() if each["name"] == name], PATIENCE_S)


def test_a_server_that_refuses_is_an_error(line: RedisLine, redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    with pytest.raises(redis.RedisError):
        line.ask(("PING",))
    redis_proxy.refuse(refusing=False)
    assert line.ask(("PING",)) == [b"PONG"]
