"""The application, called without a server by one thread: ``python -m bench.caller RESULT CALLS``.

As under gevent, with everything patched before anything is imported: ``python -m gevent.monkey --module bench.caller``.
What it prints is the application's log, as in production; what it has found goes into the file RESULT, as JSON.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from api.app import create_app
from bench import asks
from bench.asks import Ask, Kind
from bench.bare_app import app as bare_app
from bench.figures import BenchError
from observe import logs
from ops.local.server import LOOPBACK

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

KINDS = (Kind.BARE, Kind.BALANCE, Kind.HISTORY, Kind.LATER, Kind.NOW, Kind.DEPOSIT)
PASSES = 4
# Longer than a process takes until it believes the cache, in which every read is by then.
WARM_UP_S = 2.5
WARM_UP_CALLS = {kind: asks.READERS if kind in {Kind.BALANCE, Kind.HISTORY} else 20 for kind in KINDS}

Environment = dict[str, Any]


def main(result: str, calls: int) -> None:
    """Make passes through all kinds in turns, and keep the best of each kind."""
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="api")
    app = create_app(settings)
    applications = {kind: bare_app if kind is Kind.BARE else app for kind in KINDS}
    drawn = {kind: cycle(asks.draw(kind)) for kind in KINDS}
    answered, best = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, float("inf"))
    try:
        for is_measured, counts in _passes(calls):
            for kind, count in counts.items():
                environments = [environment_of(next(drawn[kind])) for _ in range(count)]
                spent_s = call_all(applications[kind], environments, kind.status)
                answered[kind] += count
                if is_measured:
                    best[kind] = min(best[kind], spent_s / count)
    finally:
        app.extensions["wallet"].close()
    found = {kind.value: {"seconds": best[kind], "answered": answered[kind]} for kind in KINDS}
    Path(result).write_text(json.dumps(found))


def _passes(calls: int) -> Iterator[tuple[bool, dict[Kind, int]]]:
    """Give whether a pass counts, and how many calls of each kind it has: first those that warm up."""
    end = time.monotonic() + WARM_UP_S
    while time.monotonic() < end:
        yield False, WARM_UP_CALLS
    for _ in range(PASSES):
        yield True, dict.fromkeys(KINDS, calls)


def call_all(application: "WSGIApplication", environments: list[Environment], status: int) -> float:
    """Make calls one after the other; return the seconds of processors that all threads of this process used.

    Raises:
        BenchError: an answer had another status.
    """
    statuses: list[str] = []

    def start_response(line: str, _headers: object, _failed: object = None, /) -> Callable[[bytes], object]:
        statuses.append(line)
        return lambda _content: None  # the way to write that nobody takes any more

    began = time.process_time()
    for environment in environments:
        body = application(environment, start_response)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()
    spent_s = time.process_time() - began
    if others := {line for line in statuses if not line.startswith(f"{status} ")}:
        raise BenchError(f"answers had status {', '.join(sorted(others))}, not {status}")
    return spent_s


def environment_of(ask: Ask) -> Environment:
    """Return what a server would make of a request (PEP 3333)."""
    path, _, query = ask.path.partition("?")
    found: Environment = {
        "REQUEST_METHOD": ask.method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
        "RAW_URI": ask.path, "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": LOOPBACK, "SERVER_PORT": "8080",
        "REMOTE_ADDR": LOOPBACK, "REMOTE_PORT": "55555", "HTTP_HOST": LOOPBACK, "HTTP_AUTHORIZATION": str(ask.user),
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(ask.body),
        "wsgi.input_terminated": True, "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }  # fmt: skip
    if ask.body:
        found |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(ask.body))}
    return found


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except BenchError as error:
        sys.exit(str(error))
