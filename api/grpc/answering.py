"""What every call goes through, whatever it is for: its trace, its deadline, how it ends, one line in the log.

A method of the servicer is written as a function of a message and an :class:`Asked`, which raises what REST's views
raise; :func:`unary` and :func:`stream` make of it what grpcio calls. Nothing that a method raises gets to grpcio, which
would tell its text to the caller.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from api.calls.problems import ApiError, DeadlinePassed, explain
from api.edge.proxies import Proxies
from api.grpc.metadata import ERROR_CODE, Sent, initial, status_code
from api.grpc.patience import Patience
from api.services import Services
from observe import logs, metrics

# What a call takes that is quick. What would have to end sooner is not begun.
LEAST_S = 0.02
# gRPC's way to say that there is no deadline is a time beyond all others; and nothing here takes longer.
FOREVER_S = 86_400.0

# For a message of a stream to be taken by its reader. It is small, and mostly taken within milliseconds.
TAKING_S, TAKERS = 5.0, 32
_taking = Patience(TAKING_S, crowd=TAKERS)

_log = structlog.get_logger("grpc")

# When the call that this context is for has come.
arrived_at: ContextVar[float] = ContextVar("arrived_at")

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


class Face:
    """What methods of a servicer stand on."""

    def __init__(self, services: Services, proxies: Proxies) -> None:
        self.services = services
        self.proxies = proxies


class Unread(NamedTuple):
    """Stands in place of a message that was not read, and says why."""

    code: str
    detail: str


def read_leniently(read: Callable[[bytes], Message], most_bytes: int) -> Callable[[bytes], Message | Unread]:
    """Make what reads messages return an :class:`Unread` for those that are none, or too large.

    Of whatever it raises grpcio would make an answer of its own, without a code of ours, and an error in the log.
    """

    def read_or_not(payload: bytes) -> Message | Unread:
        if len(payload) > most_bytes:
            return Unread("payload_too_large", f"The message may have {most_bytes} bytes.")
        try:
            return read(payload)
        except DecodeError:
            return Unread("bad_input", "request: is no message of this kind")

    return read_or_not


class Asked:
    """A call that is being answered."""

    __slots__ = ("call", "context", "sent")

    def __init__(self, context: grpc.ServicerContext, face: Face) -> None:
        self.context = context
        self.sent = Sent(context.invocation_metadata())
        self.call = self.sent.begin_call(context.peer(), face.proxies)
        self.call.ends_at = time.monotonic() + min(context.time_remaining(), FOREVER_S)

    @property
    def seconds_left(self) -> float:
        """How long the caller waits still."""
        return self.call.ends_at - time.monotonic()

    def check(self) -> None:
        """See that it can be answered at all.

        Raises:
            ApiError: ``bad_input``: something is given twice; and as :meth:`check_time`.
        """
        self.sent.check()
        self.check_time()

    def check_time(self) -> None:
        """See that somebody waits for it, and for long enough. To be asked again before anything is begun that lasts.

        Raises:
            ApiError: ``unavailable``.
        """
        if not self.context.is_active():
            raise ApiError("unavailable", "The caller has gone. Nothing moved.", {"Retry-After": "1"})
        if self.seconds_left < LEAST_S:
            raise ApiError("unavailable", "The deadline leaves no time. Nothing moved.", {"Retry-After": "1"})

    def check_message(self, request: Message | Unread) -> None:
        """See that a message is one that can be understood, when it is known who has sent it.

        Raises:
            ApiError: ``payload_too_large``; ``bad_input``: it is no such message, or there is more in it than is known
                here. To pass over that, as others do, might be to do something else than what was asked for.
        """
        if isinstance(request, Unread):
            raise ApiError(request.code, request.detail)
        if unknown := UnknownFieldSet(request):
            raise ApiError("bad_input", f"request: field {unknown[0].field_number}: is not known here")


S = TypeVar("S", bound=Face)


def unary(
    method: Callable[[S, Request, Asked], Reply],
) -> Callable[[S, Request, grpc.ServicerContext], Reply]:
    """Make a method that answers once."""
    name = method.__name__

    @functools.wraps(method)
    def answer(self: S, request: Request, context: grpc.ServicerContext) -> Reply:
        asked = Asked(context, self)
        try:
            asked.check()
            reply = method(self, request, asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, grpcio would tell its text
            _refuse(name, asked, error)
        _send_initial(asked)
        _tell(name, _code_now(asked, grpc.StatusCode.OK))
        return reply

    return answer


def stream(
    method: Callable[[S, Request, Asked], Iterator[Reply]],
) -> Callable[[S, Request, grpc.ServicerContext], Iterator[Reply]]:
    """Make a method that answers again and again."""
    name = method.__name__

    @functools.wraps(method)
    def answer(self: S, request: Request, context: grpc.ServicerContext) -> Iterator[Reply]:
        asked = Asked(context, self)
        is_begun = False
        try:
            asked.check()
            for reply in method(self, request, asked):
                if not is_begun:
                    _send_initial(asked)
                    is_begun = True
                with _taking.expect(context):
                    yield reply
        except GeneratorExit:  # nobody is there to read on
            _tell(name, _code_of_gone(asked))
            raise
        except DeadlinePassed:  # which grpcio's own clock may not have noticed yet
            _tell(name, grpc.StatusCode.DEADLINE_EXCEEDED)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline has passed.")
        except Exception as error:  # noqa: BLE001 - see above
            _refuse(name, asked, error, is_begun=is_begun)
        _tell(name, _code_now(asked, grpc.StatusCode.OK))

    return answer


def refuse(context: grpc.ServicerContext, name: str, problem: ApiError, face: Face) -> NoReturn:
    """Refuse a call without having a look at what it asks for."""
    _refuse(name, Asked(context, face), problem)


def _refuse(name: str, asked: Asked, error: Exception, *, is_begun: bool = False) -> NoReturn:
    """End a call with what an error comes to."""
    found = explain(error, asked.call)
    code = status_code(found.code)
    for header, value in found.headers.items():
        asked.call.tell(header, value)
    if not is_begun:
        _send_initial(asked)
    trailing = [(ERROR_CODE, found.code)]
    trailing += [(header.lower(), value) for header, value in found.headers.items()]
    trailing += [(fact.replace("_", "-"), value) for fact, value in found.facts.items()]
    asked.context.set_trailing_metadata(tuple(trailing))
    _tell(name, _code_now(asked, code), error_code=found.code)
    asked.context.abort(code, found.detail)
    raise AssertionError  # it has raised


def _send_initial(asked: Asked) -> None:
    """Send what goes out before an answer. Who has gone misses it, which is no reason to leave anything else undone."""
    with suppress(grpc.RpcError):
        asked.context.send_initial_metadata(initial(asked.call))


def _code_now(asked: Asked, code: grpc.StatusCode) -> grpc.StatusCode:
    """Return with what a call ends: with its own code, for a caller who is still there."""
    return code if asked.context.is_active() else _code_of_gone(asked)


def _code_of_gone(asked: Asked) -> grpc.StatusCode:
    """Return with what a call has ended for a caller who waits no more."""
    return grpc.StatusCode.CANCELLED if asked.seconds_left > 0 else grpc.StatusCode.DEADLINE_EXCEEDED


def _tell(method: str, code: grpc.StatusCode, **facts: Any) -> None:
    """Count a call and log it. Its answer is what it is by now, whatever should go wrong here."""
    try:
        seconds = time.perf_counter() - arrived_at.get()
        metrics.observe_call(method, code.name, seconds)
        about = {"method": method, "code": code.name, "duration_ms": round(seconds * 1000, 3), **facts}
        logs.write("info", "call", about)
    except Exception:  # noqa: BLE001 - whatever it is, grpcio would tell its text
        _log.critical("unexpected error", exc_info=True)
