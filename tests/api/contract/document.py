"""Holds every request and response of the tests against the document.

What the service accepts must be valid to the document, what the document calls invalid must be refused, and every
answer must be one that the document knows: status, media type, headers and body.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from werkzeug.datastructures import Headers
from werkzeug.http import parse_options_header
from werkzeug.test import TestResponse

from api.app import create_app
from api.contract.openapi import make_document
from config import Settings

Json: TypeAlias = dict[str, Any]

# Pages for people: no part of the document.
_PAGES = re.compile(r"/(docs|rq)(/|$)")
_INTEGER = re.compile(r"-?[0-9]{1,30}")
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")


class Undocumented(AssertionError):
    """The service and its document disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its response, however they travelled. Names of headers are in lower case."""

    method: str
    path: str
    query: str = ""
    sent: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int
    headers: Mapping[str, str]
    answer: bytes

    def __str__(self) -> str:
        asked = f"{self.method} {self.path}?{self.query} {self.body[:200]!r}"
        return f"{asked} -> {self.status} {dict(self.headers)} {self.answer[:500]!r}"


class DocumentedClient(FlaskClient):
    """A test client that lets nothing pass that is not in the document."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send a request, and hold it and its response against the document."""
        response = super().open(*args, **kwargs)
        environ = response.request.environ
        environ["wsgi.input"].seek(0)
        check(
            Exchange(
                method=environ["REQUEST_METHOD"],
                path=environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
                query=environ["QUERY_STRING"],
                sent=lowered(response.request.headers),
                body=environ["wsgi.input"].read(),
                status=response.status_code,
                headers=lowered(response.headers),
                answer=response.data,
            )
        )
        return response


def lowered(headers: Mapping[str, str] | Headers) -> dict[str, str]:
    """Return headers with their names in lower case, and as the characters that they spell."""
    return {name.lower(): _characters(value) for name, value in headers.items()}


def _characters(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def check(exchange: Exchange) -> None:
    """Hold an exchange against the document.

    Raises:
        Undocumented: they do not go together.
    """
    if _PAGES.match(exchange.path):
        return
    paths = _routes()
    found = next(((item, match) for pattern, item in paths if (match := pattern.fullmatch(exchange.path))), None)
    if found is None:
        _check_refusal(exchange, {400, 404})
        return
    item, match = found
    operation = item.get("GET" if exchange.method == "HEAD" else exchange.method)
    if operation is not None:
        operation.check(exchange, match.groupdict())
    elif exchange.method != "OPTIONS":
        _check_refusal(exchange, {400, 405})


class _Operation:
    """One operation of the document, with its validators made once."""

    def __init__(self, document: Json, operation: Json) -> None:
        parameters = [_resolve(document, each) for each in operation["parameters"]]
        self._parameters = {(each["in"], each["name"]): _validator(document, each["schema"]) for each in parameters}
        self._kinds = {each["name"]: each["schema"].get("type") for each in parameters}
        self._needs_credentials = bool(operation["security"])
        body = operation.get("requestBody")
        self._body = _validator(document, body["content"]["application/json"]["schema"]) if body else None
        self._is_body_required = bool(body and body["required"])
        self._answers = {
            int(status): (
                {kind: _validator(document, content["schema"]) for kind, content in response["content"].items()},
                {name: _resolve(document, header) for name, header in response["headers"].items()},
            )
            for status, response in operation["responses"].items()
        }

    def check(self, exchange: Exchange, path: Mapping[str, str]) -> None:
        """Check a request and its response."""
        wrong = next(self._faults(exchange, path), None)
        if wrong and not 400 <= exchange.status < 500:
            raise Undocumented(f"{wrong}, but it was not refused: {exchange}")
        if self._needs_credentials and exchange.status < 400 and "authorization" not in exchange.sent:
            raise Undocumented(f"served without credentials: {exchange}")
        if exchange.status not in self._answers:
            raise Undocumented(f"a status that is not in the document: {exchange}")
        contents, headers = self._answers[exchange.status]
        _check_headers(exchange, headers)
        _check_content(exchange, contents)

    def _faults(self, exchange: Exchange, path: Mapping[str, str]) -> Iterator[str]:
        """Iterate over what the document does not like about the request."""
        given = [("path", name, value) for name, value in path.items()]
        query = parse_qsl(exchange.query, keep_blank_values=True)
        if len(dict(query)) < len(query):
            yield "query: a parameter is repeated"
        given += [("query", name, value) for name, value in query]
        given += [
            (kind, name, exchange.sent[name.lower()])
            for kind, name in self._parameters
            if kind == "header" and name.lower() in exchange.sent
        ]
        for kind, name, value in given:
            validator = self._parameters.get((kind, name))
            if validator is None:
                yield f"{kind}: {name} is unknown"
            elif not validator.is_valid(_read(value, self._kinds[name])):
                yield f"{kind}: {name} is wrong"
        if self._body and (self._is_body_required or exchange.body):
            yield from self._faults_of_body(exchange, self._body)

    @staticmethod
    def _faults_of_body(exchange: Exchange, validator: Draft202012Validator) -> Iterator[str]:
        if parse_options_header(exchange.sent.get("content-type"))[0].lower() != "application/json":
            yield "the media type is another"
        try:
            body = json.loads(exchange.body)
        except (ValueError, RecursionError):
            yield "the body is not JSON"
        else:
            yield from (f"body: {error.message}" for error in validator.iter_errors(body))


def _read(value: str, kind: str | None) -> object:
    """Read a parameter's text as the document's type."""
    if kind == "integer" and _INTEGER.fullmatch(value):
        return int(value)
    if kind == "number" and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _check_refusal(exchange: Exchange, statuses: set[int]) -> None:
    """Check an answer where no operation is."""
    if exchange.status not in statuses:
        raise Undocumented(f"there is no such operation: {exchange}")
    if exchange.status == 405 and "allow" not in exchange.headers:
        raise Undocumented(f"Allow is missing: {exchange}")
    _check_content(
        exchange, {"application/problem+json": _validator(_document(), _document()["components"]["schemas"]["Problem"])}
    )


def _check_headers(exchange: Exchange, headers: Mapping[str, Json]) -> None:
    for name, header in headers.items():
        value = exchange.headers.get(name.lower())
        if value is None:
            if header["required"]:
                raise Undocumented(f"{name} is missing: {exchange}")
        elif not _header_validator(name).is_valid(_read(value, header["schema"]["type"])):
            raise Undocumented(f"{name} is wrong: {exchange}")


def _check_content(exchange: Exchange, contents: Mapping[str, Draft202012Validator]) -> None:
    kind = parse_options_header(exchange.headers.get("content-type"))[0]
    if kind not in contents:
        raise Undocumented(f"a media type that is not in the document: {exchange}")
    if exchange.method == "HEAD" or "content-encoding" in exchange.headers:
        return
    answer = json.loads(exchange.answer) if kind.endswith("json") else exchange.answer.decode()
    try:
        contents[kind].validate(answer)
    except ValidationError as error:
        raise Undocumented(f"{error.message}: {exchange}") from error


@functools.cache
def _document() -> Json:
    """Return the document; making the application connects to nothing."""
    nowhere = {"database_url": "postgresql://nobody@127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1"}
    return make_document(create_app(Settings.model_validate(nowhere)))


@functools.cache
def _routes() -> list[tuple[re.Pattern[str], dict[str, _Operation]]]:
    """Return every path as a pattern, with its operations by their methods."""
    document = _document()
    return [
        (
            re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)),
            {method.upper(): _Operation(document, operation) for method, operation in item.items()},
        )
        for path, item in document["paths"].items()
    ]


@functools.cache
def _header_validator(name: str) -> Draft202012Validator:
    return _validator(_document(), _document()["components"]["headers"][name]["schema"])


def _validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator(_inlined(document, schema), format_checker=Draft202012Validator.FORMAT_CHECKER)


def _resolve(document: Json, value: Json) -> Json:
    """Follow a reference, if it is one."""
    if "$ref" not in value:
        return value
    found = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def _inlined(document: Json, schema: Any) -> Any:
    """Replace references by what they refer to: following them takes a validator most of its time."""
    if isinstance(schema, dict):
        return {name: _inlined(document, value) for name, value in _resolve(document, schema).items()}
    return [_inlined(document, value) for value in schema] if isinstance(schema, list) else schema
