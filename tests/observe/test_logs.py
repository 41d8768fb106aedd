"""Every line is one JSON object, whoever writes it; each case is a process, since logging is a process's own."""

import json
import os
import sys
import textwrap
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import nursery
from tests.project import ROOT

PREAMBLE = """
import logging, threading, warnings, structlog
from observe import logs
logs.configure({level!r}, service='test')
"""


def run(code: str, *, level: str = "INFO", status: int = 0) -> list[dict[str, Any]]:
    """Run code in a process of its own with logging set up, and return the lines that it wrote."""
    ended = nursery.run(
        [sys.executable, "-c", PREAMBLE.format(level=level) + textwrap.dedent(code)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
    )
    assert ended.stderr == b""
    assert ended.returncode == status
    assert not ended.stdout or ended.stdout.endswith(b"\n")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_an_event_of_ours_is_one_object_with_its_facts() -> None:
    (line,) = run("structlog.get_logger().info('posted', job_id='1', cents=67)")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 60
    assert line.pop("time").endswith("Z")
    assert line == {"event": "posted", "job_id": "1", "cents": 67, "level": "info", "service": "test"}


def test_a_command_writes_its_log_where_its_answer_is_not() -> None:
    code = """
        import sys
        logs.configure('INFO', service='command', stream=sys.stderr)
        structlog.get_logger().info('ours')
        logging.getLogger('library').warning('theirs')
    """
    ended = nursery.run(
        [sys.executable, "-c", PREAMBLE.format(level="INFO") + textwrap.dedent(code)],
        cwd=ROOT,
        check=True,
    )
    assert ended.stdout == b""
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == ["ours", "theirs"]


def test_a_librarys_event_has_the_same_form_and_names_its_logger() -> None:
    (line,) = run("logging.getLogger('library.part').warning('%s of %d', 'one', 2)")
    assert line.pop("time").endswith("Z")
    assert line == {"event": "one of 2", "level": "warning", "service": "test", "logger": "library.part"}


def test_an_uncaught_exception_is_one_line_and_the_exit_status_stays_1() -> None:
    (line,) = run("def fall():\n    raise RuntimeError('boom')\nfall()", status=1)
    assert (line["level"], line["logger"], line["service"]) == ("critical", "uncaught", "test")
    assert line["exception"].endswith("RuntimeError: boom")
    assert "in fall" in line["exception"]


def test_an_uncaught_exception_in_a_thread_is_one_line_that_names_the_thread() -> None:
    (line,) = run(
        """
        def fall():
            raise RuntimeError("boom")
        thread = threading.Thread(target=fall, name="relay")
        thread.start()
        thread.join()
        """
    )
    assert (line["level"], line["logger"]) == ("critical", "uncaught")
    assert line["event"] == "thread relay dies of an exception"
    assert line["exception"].endswith("RuntimeError: boom")


def test_a_thread_that_ends_itself_is_no_error() -> None:
    assert run("thread = threading.Thread(target=lambda: exit(1)); thread.start(); thread.join()") == []


def test_an_exception_in_a_finalizer_is_one_line() -> None:
    (line,) = run(
        """
        class Holder:
            def __del__(self):
                raise RuntimeError("boom")
        Holder()
        """
    )
    assert (line["level"], line["logger"]) == ("error", "uncaught")
    assert line["exception"].endswith("RuntimeError: boom")


@pytest.mark.parametrize("write", ["structlog.get_logger().exception", "logging.getLogger('library').exception"])
def test_a_caught_exception_is_one_line_with_its_traceback(write: str) -> None:
    (line,) = run(f"try:\n    1 / 0\nexcept ZeroDivisionError:\n    {write}('failed')")
    assert (line["event"], line["level"]) == ("failed", "error")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_a_warning_is_a_line_too() -> None:
    (line,) = run("warnings.warn('old', stacklevel=1)")
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "old" in line["event"]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("DEBUG", ["debug", "info", "warning", "error"]),
        ("INFO", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("ERROR", ["error"]),
    ],
)
def test_what_is_below_the_level_is_not_written(level: str, written: list[str]) -> None:
    lines = run(
        """
        for logger in structlog.get_logger(), logging.getLogger("library"):
            for level in "debug", "info", "warning", "error":
                getattr(logger, level)(level)
        """,
        level=level,
    )
    assert [line["level"] for line in lines] == written * 2


def test_what_is_bound_to_the_request_is_in_every_line() -> None:
    lines = run(
        """
        logs.bind(trace_id="abc")
        structlog.get_logger().info("ours")
        logging.getLogger("library").info("theirs")
        """
    )
    assert [(line["event"], line["trace_id"]) for line in lines] == [("ours", "abc"), ("theirs", "abc")]


SAID = ("two\nlines", '"quoted" \\ back', "\u20ac \U0001f600", "\x00\x1b[31m", "\u2028", "\ud800", "x" * 100_000)


def test_whatever_is_said_stays_one_line() -> None:
    writers = "structlog.get_logger().info, logging.getLogger('library').info"
    lines = run(f"for said in {SAID!a}:\n    for write in {writers}:\n        write(said)")
    assert [line["event"] for line in lines] == [said for said in SAID for _ in range(2)]


def test_what_json_has_no_word_for_is_written_all_the_same() -> None:
    values = "path=__import__('pathlib').Path('/a'), big=2**70, keys={1: 2}, kind=ValueError('x'), raw=b'y'"
    (line,) = run(f"structlog.get_logger().info('x', {values})")
    assert (line["path"], line["big"], line["keys"], line["kind"]) == ("/a", 2**70, {"1": 2}, "x")


def test_lines_of_many_threads_never_mix() -> None:
    lines = run(
        """
        def write(number):
            ours, theirs = structlog.get_logger(), logging.getLogger("library")
            for _ in range(200):
                ours.info("ours", filling="x" * number * 500)
                theirs.info("theirs %s", "y" * number * 500)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        """
    )
    assert len(lines) == 4 * 200 * 2


def test_alembic_is_quiet_unless_something_is_wrong() -> None:
    lines = run("logging.getLogger('alembic.runtime').info('x'); logging.getLogger('alembic').warning('y')")
    assert [line["event"] for line in lines] == ["y"]


def test_each_transfer_of_a_batch_is_a_line_with_the_trace_it_came_from() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    lines = run(
        f"logs.write_transfers([(2**62, 'posted', None, {trace!r}), (2, 'rejected', 'balance_overflow', None)])"
    )
    assert all(line.pop("time").endswith("Z") for line in lines)
    common = {"event": "transfer settled", "level": "info", "service": "test"}
    assert lines == [
        common | {"job_id": str(2**62), "status": "posted", "reason": None, "trace_id": trace[3:35]},
        common | {"job_id": "2", "status": "rejected", "reason": "balance_overflow", "trace_id": None},
    ]


@pytest.mark.parametrize(("transfers", "level"), [("[]", "INFO"), ("[(1, 'posted', None, None)]", "WARNING")])
def test_no_transfers_or_a_higher_level_write_nothing(transfers: str, level: str) -> None:
    assert run(f"logs.write_transfers({transfers})", level=level) == []
