"""Reading requests: bodies, queries and headers into models, or a problem that names what is wrong."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar
from urllib.parse import parse_qsl

import orjson
from flask import Response, current_app
from pydantic import BaseModel
from werkzeug.http import parse_options_header

from api.calls.problems import ApiError
from api.contract.checking import check_idempotency_key, validate
from api.contract.fields import NoQuery

_JSON = "application/json"
# The least number of characters that an integer beyond 64 bits can have.
_TOO_LONG_FOR_INT64 = 20

P = ParamSpec("P")
M = TypeVar("M", bound=BaseModel)


def answers(view: Callable[P, BaseModel]) -> Callable[P, Response]:
    """Let a view return a model, which becomes a JSON response with status 200."""

    @functools.wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Response:
        return json_response(view(*args, **kwargs))

    return wrapped


def json_response(answer: BaseModel, status: int = 200) -> Response:
    """Write a model as a JSON response."""
    return current_app.response_class(
        answer.__pydantic_serializer__.to_json(answer), status, mimetype="application/json"
    )


def read_body(environ: Mapping[str, Any], model: type[M], *, most_bytes: int) -> M:
    """Read the request's JSON object.

    Raises:
        ApiError: ``unsupported_media_type``, ``bad_input``, ``invalid_amount`` or ``payload_too_large``.
    """
    kind = environ.get("CONTENT_TYPE", "")
    if kind != _JSON and parse_options_header(kind)[0].lower() != _JSON:
        raise ApiError("unsupported_media_type", "Send the body as application/json.")
    if (coding := environ.get("HTTP_CONTENT_ENCODING")) and coding.lower() != "identity":
        raise ApiError("unsupported_media_type", "Send the body as it is, without a Content-Encoding.")
    try:
        given = parse(_read_raw(environ, most_bytes))
    except ValueError:
        raise ApiError("bad_input", "The body is not valid JSON.") from None
    if not isinstance(given, dict):
        raise ApiError("bad_input", "The body must be a JSON object.")
    return validate(model, given, what="body")


def read_optional_body(environ: Mapping[str, Any], model: type[M], *, most_bytes: int) -> M:
    """Read the request's JSON object; without a body, as if it were an empty one.

    Raises:
        ApiError: as :func:`read_body`.
    """
    # Of a body nothing may be known but that it comes in chunks.
    if environ.get("CONTENT_LENGTH", "0").lstrip("0") == "" and "HTTP_TRANSFER_ENCODING" not in environ:
        return model()
    return read_body(environ, model, most_bytes=most_bytes)


def read_query(environ: Mapping[str, Any], model: type[M]) -> M:
    """Read the request's query parameters, each at most once and none that is not known.

    Raises:
        ApiError: ``bad_input``.
    """
    return _read_query(model, environ["QUERY_STRING"])  # type: ignore[return-value] # a cache knows no type variables


def refuse_query(environ: Mapping[str, Any]) -> None:
    """Refuse query parameters, where there are none.

    Raises:
        ApiError: ``bad_input``.
    """
    read_query(environ, NoQuery)


# The same few are asked for again and again; models are frozen.
@functools.lru_cache(maxsize=1_024)
def _read_query(model: type[BaseModel], text: str) -> BaseModel:
    # As Werkzeug reads it: bytes of UTF-8, and what is none stays as it is.
    pairs = parse_qsl(
        text.encode("latin-1").decode(errors="replace"), keep_blank_values=True, errors="werkzeug.url_quote"
    )
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ApiError("bad_input", f"query: {_repeated(pairs)[:64]}: must be given once")
    return validate(model, given, what="query")


def read_idempotency_key(environ: Mapping[str, Any]) -> str | None:
    """Read the Idempotency-Key header, if there is one. That it was sent once, the server has seen to.

    Raises:
        ApiError: ``bad_input``: it can be none.
    """
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    return check_idempotency_key(key if key.isascii() else _decode(key))


def _decode(value: str) -> str:
    """Read a header's text, which WSGI gives as one character a byte: UTF-8 as most write it.

    What is no UTF-8 is ISO 8859-1, as HTTP had it for long and Python's clients still write it.
    """
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _read_raw(environ: Mapping[str, Any], most_bytes: int) -> bytes:
    """Read the whole body; of one without a length (chunked) a byte more than there may be, which tells.

    Raises:
        ApiError: ``payload_too_large``; ``bad_input``: the body ended before its Content-Length.
    """
    digits = environ.get("CONTENT_LENGTH")
    length = int(digits) if digits and digits.isdecimal() else None
    if length is not None and length > most_bytes:
        raise ApiError("payload_too_large", f"The body may have {most_bytes} bytes.")
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    raw: bytes = environ["wsgi.input"].read(most_bytes + 1 if length is None else length)
    if len(raw) > most_bytes:
        raise ApiError("payload_too_large", f"The body may have {most_bytes} bytes.")
    if length is not None and len(raw) < length:
        raise ApiError("bad_input", "The body is shorter than its Content-Length.")
    return raw


def parse(raw: bytes) -> object:
    """Read JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
        ApiError: ``bad_input``: an object has the same name twice.
    """
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "infinity" not in str(error):
            raise
        # A number beyond a double (1e400), which orjson refuses though it is well-formed. It becomes null, so that the
        # field that holds it is found to be wrong, and not the whole body.
        return _parse_strictly(raw)
    # Of a name that stands there twice orjson takes the last, silently. Each has a colon behind it, so where there are
    # no more of these than names, there is none; else, as with an object within another, it is looked for.
    if raw.count(b":") > (len(given) if isinstance(given, dict) else 0):
        _parse_strictly(raw)
    return given


def _parse_strictly(raw: bytes) -> object:
    """Read well-formed JSON more slowly: numbers beyond 64 bits are null, and a name stands once in each object.

    Raises:
        ValueError: it is nested too deeply, or not JSON after all.
        ApiError: ``bad_input``: an object has the same name twice.
    """
    try:
        return orjson.loads(orjson.dumps(_strict.decode(raw.decode())))
    except (RecursionError, orjson.JSONEncodeError) as error:
        raise ValueError("nested too deeply, or half of a surrogate pair") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ApiError("bad_input", f"body: {_repeated(pairs)[:64]}: must be given once")
    return given


def _repeated(pairs: Sequence[tuple[str, Any]]) -> str:
    """Return the first name that stands there more than once."""
    names = [name for name, _ in pairs]
    return next(name for name in names if names.count(name) > 1)


def _int64_or_none(digits: str) -> int | None:
    return int(digits) if len(digits) < _TOO_LONG_FOR_INT64 else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_strict = json.JSONDecoder(object_pairs_hook=_once, parse_int=_int64_or_none, parse_constant=_refuse_constant)
