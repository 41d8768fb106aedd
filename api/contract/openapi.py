"""``/openapi.json``: the contract as a document (OpenAPI 3.1).

It is made of the URL map, the views' docstrings, the models that validate, and the rows of ``api/contract/routes.py``.
"""

import inspect
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from api.calls.problems import PROBLEMS
from api.contract.components import (
    ADMIN_SCHEME,
    HEADERS,
    HEADERS_OF_STATUS,
    PROBLEM,
    REQUEST_HEADERS,
    USER_SCHEMES,
    Json,
    problem_example,
)
from api.contract.operations import Answer, Operation, Who
from api.contract.routes import LINKS, OPERATIONS, PATH_PARAMETERS, TAGS, UNDOCUMENTED_BLUEPRINTS
from api.contract.validation import refuse_query
from api.settings import settings_of

blueprint = Blueprint("openapi", __name__)

_EXTENSION = "openapi"
_SCHEMAS = "#/components/schemas"
# Flask answers these by itself wherever there is a GET, or anything.
_IMPLIED_METHODS = {"HEAD", "OPTIONS"}
_PATH_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


class _Schemas(GenerateJsonSchema):
    """Pydantic's schemas without a title for each field, which would only say its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


class _Served:
    """The document as it is sent: made by the first request for it, so that no other start or request pays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._body: bytes | None = None

    def body(self, app: Flask, prefix: str) -> bytes:
        """Return it for clients who say this before each path, since a proxy in front takes it off."""
        with self._lock:
            if self._body is None:
                self._body = orjson.dumps(make_document(app))
        if not prefix:
            return self._body
        return orjson.dumps(orjson.loads(self._body) | {"servers": [{"url": prefix}]})


def install(app: Flask) -> None:
    """Serve the document of this application."""
    app.extensions[_EXTENSION] = _Served()
    app.register_blueprint(blueprint)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Return this document."""
    refuse_query(request.environ)
    body = current_app.extensions[_EXTENSION].body(current_app, request.root_path)
    return Response(body, mimetype="application/json")


def make_document(app: Flask) -> Json:
    """Make the document of all routes of the application.

    Raises:
        KeyError: a route has no row in ``api/contract/routes.py``.
    """
    models = sorted(_models(), key=lambda pair: pair[0].__name__)
    _, definitions = models_json_schema(models, ref_template=f"{_SCHEMAS}/{{model}}", schema_generator=_Schemas)
    paths: Json = {}
    for path, method, endpoint in documented_routes(app):
        paths.setdefault(path, {})[method.lower()] = _operation(app, path, endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wallet service",
            "version": "1",
            "description": "Deposits, withdrawals and transfers. Money is integer cents; ids in answers are strings.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"] | {"Problem": PROBLEM},
            "headers": HEADERS,
            "parameters": {
                name: {"name": name, "in": "header", "required": False} | rest for name, rest in REQUEST_HEADERS.items()
            },
            "examples": {code: problem_example(problem) for code, problem in PROBLEMS.items()},
            "links": {name: _link(app, name) for name in LINKS},
            "securitySchemes": {
                "user": USER_SCHEMES[settings_of(app).auth_mode],
                "admin": ADMIN_SCHEME,
            },
        },
    }


def documented_routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Iterate over path, method and endpoint of every route of the contract."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] not in UNDOCUMENTED_BLUEPRINTS:
            for method in sorted((rule.methods or set()) - _IMPLIED_METHODS):
                yield _PATH_PARAMETER.sub(r"{\1}", rule.rule), method, rule.endpoint


def _models() -> Iterator[tuple[type[BaseModel], Any]]:
    for operation in OPERATIONS.values():
        if operation.body:
            yield operation.body, "validation"
        for answer in operation.answers.values():
            if isinstance(answer.schema, type):
                yield answer.schema, "serialization"


def _operation(app: Flask, path: str, endpoint: str) -> Json:
    row = OPERATIONS[endpoint]
    summary, _, description = (inspect.getdoc(app.view_functions[endpoint]) or "").partition("\n")
    found: Json = {
        "tags": [row.tag],
        "operationId": _operation_id(endpoint),
        "summary": summary.rstrip("."),
        "security": [{scheme: []} for scheme in row.who.schemes],
        "parameters": list(_parameters(path, row)),
        "responses": _responses(row),
    }
    if description.strip():
        found["description"] = description.strip()
    if row.body:
        content = {"schema": _ref(row.body), "example": row.body_example}
        found["requestBody"] = {"required": row.is_body_required, "content": {"application/json": content}}
    return found


def _operation_id(endpoint: str) -> str:
    return endpoint.rpartition(".")[2]


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"{_SCHEMAS}/{model.__name__}"}


def _parameters(path: str, row: Operation) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True} | PATH_PARAMETERS[name]
    schema = row.query.model_json_schema(schema_generator=_Schemas)
    for name, given in schema.get("properties", {}).items():
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if description := given.pop("description", None):
            parameter["description"] = description
        yield parameter | {"schema": _without_null(given)}
    headers = ("Idempotency-Key", "X-Request-ID", "traceparent") if row.moves_money else ("X-Request-ID", "traceparent")
    for name in headers:
        yield {"$ref": f"#/components/parameters/{name}"}


def _without_null(schema: Json) -> Json:
    """Say it as a query says it: what is None to the model is a parameter that is not there."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(row: Operation) -> Json:
    found = {str(status): _success(row, answer) for status, answer in row.answers.items()}
    codes_of: dict[int, list[str]] = {}
    for code in _codes(row):
        codes_of.setdefault(PROBLEMS[code].status, []).append(code)
    for status, codes in codes_of.items():
        response = found.setdefault(
            str(status),
            {"description": "; ".join(PROBLEMS[code].title for code in codes) + ".", "headers": {}, "content": {}},
        )
        # An answer of the route's own under the same status makes what a problem needs optional.
        headers = () if status in row.answers else HEADERS_OF_STATUS.get(status, ())
        response["headers"] |= _headers(row, headers)
        response["content"]["application/problem+json"] = {
            "schema": {
                "allOf": [
                    {"$ref": f"{_SCHEMAS}/Problem"},
                    {"properties": {"code": {"enum": codes}, "status": {"const": status}}},
                ]
            },
            "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
        }
        if "outcome_unknown" in codes:
            response["links"] = {"transfer": {"$ref": "#/components/links/transfer"}}
    return dict(sorted(found.items()))


def _codes(row: Operation) -> list[str]:
    """Return the codes that the operation can answer, in the order of the table."""
    codes = {"bad_input", "method_not_allowed", "unavailable", *row.problems}
    if row.who is not Who.ANYONE:
        codes |= {"unauthorized", "rate_limited"}
    if row.who is Who.ADMIN:
        codes |= {"forbidden"}
    if row.body:
        codes |= {"unsupported_media_type", "payload_too_large"}
        codes |= {"invalid_amount"} if "amount" in row.body.model_fields else set()
    if row.moves_money:
        codes |= {"idempotency_key_reused", "outcome_unknown"}
    return [code for code in PROBLEMS if code in codes]


def _success(row: Operation, answer: Answer) -> Json:
    model = answer.schema if isinstance(answer.schema, type) else None
    description = answer.description or (inspect.getdoc(model) if model else "") or HTTPStatus(answer.status).phrase
    replayed = ("Idempotency-Replayed",) if row.moves_money else ()
    found: Json = {
        "description": description,
        "headers": _headers(row, (*answer.headers, *replayed)),
        "content": {
            answer.media_type: {
                "schema": _ref(model) if model else answer.schema,
                "example": answer.example,
            },
            **{kind: {"schema": {"type": "string"}, "example": example} for kind, example in answer.also.items()},
        },
    }
    if answer.links:
        found["links"] = {name: {"$ref": f"#/components/links/{name}"} for name in answer.links}
    return found


def _headers(row: Operation, names: tuple[str, ...]) -> Json:
    limits = () if row.who is Who.ANYONE else ("RateLimit", "RateLimit-Policy")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", "traceparent", *limits, *names)}


def _link(app: Flask, name: str) -> Json:
    link = LINKS[name]
    summary, _, _ = (inspect.getdoc(app.view_functions[link.endpoint]) or "").partition("\n")
    return {
        "operationId": _operation_id(link.endpoint),
        "parameters": {link.parameter: f"$response.body#/{link.pointer}"},
        "description": summary,
    }
