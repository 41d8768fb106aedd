"""The document says what the service does: all of its routes, and examples that fit their schemas."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import settings
from api.calls.problems import PROBLEMS
from api.contract.openapi import documented_routes, make_document
from api.contract.routes import LINKS, OPERATIONS, TAGS, UNDOCUMENTED_BLUEPRINTS
from tests.api.calls import ADMIN, Json, answer, ask, get, problem

DOCUMENT = "/openapi.json"


@pytest.fixture
def document(client: FlaskClient) -> Json:
    """The document as it is served."""
    return answer(get(client, DOCUMENT, user=None))


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Iterate over path, method and operation."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def resolved(document: Json, value: Json) -> Json:
    """Follow a reference, if it is one."""
    for part in value.get("$ref", "#").split("/")[1:]:
        value = document[part] if value.keys() == {"$ref"} else value[part]
    return value


def test_the_document_is_openapi_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_route_is_in_the_document_and_the_other_way_round(app: Flask, document: Json) -> None:
    served = {
        (re.sub(r"<(\w+:)?(\w+)>", r"{\2}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.partition(".")[0] not in UNDOCUMENTED_BLUEPRINTS
    }
    assert served == {(path, method.upper()) for path, method, _ in operations(document)}
    assert OPERATIONS.keys() == {endpoint for _, _, endpoint in documented_routes(app)}


def test_every_operation_has_a_summary_and_a_tag_that_is_explained(document: Json) -> None:
    assert [tag["name"] for tag in document["tags"]] == list(TAGS)
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        assert set(operation["tags"]) <= TAGS.keys()
        for status, response in operation["responses"].items():
            assert response["description"], (method, path, status)


def test_every_problem_of_the_table_is_shown_where_it_can_happen(document: Json) -> None:
    shown = set()
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            for code in response["content"].get("application/problem+json", {}).get("examples", {}):
                assert PROBLEMS[code].status == int(status)
                shown.add(code)
    # Where nothing is there is no operation.
    assert shown == PROBLEMS.keys() - {"not_found"}


def test_what_is_promised_with_a_status_is_a_required_header(document: Json) -> None:
    promised = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After", "202": "Location"}
    seen = set()
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            for name in {"X-Request-ID", "traceparent", promised.get(status, "traceparent")}:
                assert resolved(document, response["headers"][name])["required"], (status, name)
                seen.add(name)
    assert seen == {"X-Request-ID", "traceparent", *promised.values()}


def examples(document: Json) -> Iterator[tuple[Json, Any]]:
    """Iterate over every schema with an example of it."""
    for _, _, operation in operations(document):
        parameters = [resolved(document, each) for each in operation["parameters"]]
        headers = [resolved(document, each) for r in operation["responses"].values() for each in r["headers"].values()]
        yield from ((each["schema"], each["example"]) for each in parameters + headers if "example" in each)
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (media for each in contents for media in each.get("content", {}).values()):
            if "example" in content:
                yield content["schema"], content["example"]
            for each in content.get("examples", {}).values():
                yield content["schema"], resolved(document, each)["value"]


def test_every_example_fits_its_schema(document: Json) -> None:
    count = 0
    for schema, example in examples(document):
        whole = schema | {"components": document["components"]}
        Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(example)
        count += 1
    assert count > 100


def test_every_link_leads_to_a_parameter_that_is_there(app: Flask, document: Json) -> None:
    parameters = {
        operation["operationId"]: {resolved(document, each)["name"] for each in operation["parameters"]}
        for _, _, operation in operations(document)
    }
    assert document["components"]["links"].keys() == LINKS.keys()
    for link in document["components"]["links"].values():
        assert set(link["parameters"]) <= parameters[link["operationId"]]
    assert len(parameters) == len(list(documented_routes(app)))


def test_ids_are_strings_in_every_answer(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Out"):
            for field, given in schema.get("properties", {}).items():
                if field.endswith("_id") and field != "transaction_id":
                    kinds = [each["type"] for each in given.get("anyOf", [given])]
                    assert set(kinds) <= {"string", "null"}, (name, field)


@pytest.mark.parametrize(
    ("mode", "scheme"),
    [
        ("user-id", {"type": "apiKey", "in": "header", "name": "Authorization"}),
        ("jwt", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}),
    ],
)
def test_the_document_says_how_to_sign_in(app: Flask, mode: str, scheme: Json) -> None:
    settings.install(app, settings.settings_of(app).model_copy(update={"auth_mode": mode}))
    schemes = make_document(app)["components"]["securitySchemes"]
    assert {name: schemes["user"].get(name) for name in scheme} == scheme
    assert (schemes["admin"]["type"], schemes["admin"]["scheme"]) == ("http", "basic")


def test_every_operation_says_who_may_call_it(document: Json) -> None:
    callers = {op["operationId"]: [next(iter(each)) for each in op["security"]] for _, _, op in operations(document)}
    assert callers["deposit"] == callers["transactions"] == ["user"]
    assert callers["requeue_all"] == ["admin"]
    assert callers["job"] == ["user", "admin"]
    assert callers["healthz"] == callers["openapi"] == []
    for _, _, operation in operations(document):
        assert ("401" in operation["responses"]) == bool(operation["security"])


def test_the_document_is_for_everyone_and_always_the_same(client: FlaskClient) -> None:
    first = get(client, DOCUMENT, user=None).data
    assert [get(client, DOCUMENT, user=user).data for user in (1, ADMIN, "nobody")] == [first] * 3
    problem(get(client, f"{DOCUMENT}?x=1"), "bad_input")
    problem(ask(client, "POST", DOCUMENT), "method_not_allowed")
