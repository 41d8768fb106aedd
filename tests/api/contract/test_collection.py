"""The collection has a request for each call, and Bruno reads in it what the document says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from api.contract.collection import ENVIRONMENT, make_collection
from api.contract.openapi import make_document
from tests.api.conftest import AppMaker
from tests.node import Node, find_node

Json = dict[str, Any]

# Bruno's own reader: each kind of file has a language of its own.
READ = """
const { bruToJsonV2, bruToEnvJsonV2, collectionBruToJson } = require("@usebruno/lang");
const files = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const read = {};
for (const [name, text] of Object.entries(files)) {
  if (!name.endsWith(".bru")) continue;
  const isAbout = /(collection|folder)[.]bru$/.test(name);
  const parse = name.startsWith("environments/") ? bruToEnvJsonV2 : isAbout ? collectionBruToJson : bruToJsonV2;
  read[name] = parse(text);
}
process.stdout.write(JSON.stringify(read));
"""


@pytest.fixture(scope="session")
def node() -> Node:
    """Node.js, where it can be had."""
    return find_node()


@pytest.fixture
def document(app: Flask) -> Json:
    return make_document(app)


def _read(node: Node, files: dict[str, str]) -> Json:
    return json.loads(node.run(READ, json.dumps(files)))  # type: ignore[no-any-return]


def _operations(document: Json) -> Iterator[tuple[str, str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{operation['tags'][0]}/{operation['operationId']}.bru", method, path, operation


def _resolved(document: Json, schema: Json) -> Json:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["parameters"][name] if name else schema


def test_there_is_a_request_for_each_call_and_nothing_else(document: Json) -> None:
    files = make_collection(document)
    about = {name for name in files if name.endswith("folder.bru")} | {"bruno.json", "collection.bru", ENVIRONMENT}
    assert files.keys() - about == {name for name, *_ in _operations(document)}
    assert {name.partition("/")[0] for name in about if "folder.bru" in name} == {
        operation["tags"][0] for *_, operation in _operations(document)
    }


def test_bruno_reads_what_the_document_says(document: Json, node: Node) -> None:
    read = _read(node, make_collection(document))
    variables = {each["name"] for each in read[ENVIRONMENT]["variables"]}
    for name, method, path, operation in _operations(document):
        request = read[name]
        parameters = [_resolved(document, each) for each in operation["parameters"]]
        assert request["http"]["method"] == method
        url = request["http"]["url"].partition("?")[0]
        assert url == "{{baseUrl}}" + path.replace("{", ":").replace("}", "")
        for place in ("query", "path"):
            told = {each["name"] for each in request.get("params", ()) if each["type"] == place}
            assert told == {each["name"] for each in parameters if each["in"] == place}
        takes = {each["name"] for each in parameters}
        headers = {each["name"]: each["value"] for each in request.get("headers", ())}
        assert ("Idempotency-Key" in headers) == ("Idempotency-Key" in takes)
        body = operation.get("requestBody", {"content": {"application/json": {"example": None}}})["content"]
        assert json.loads(request.get("body", {"json": "null"})["json"]) == body["application/json"]["example"]
        assert {"user": "Authorization" in headers, "admin": "basic" in request.get("auth", {})} == _signs_in(operation)
        used = {each["value"].strip("{}") for each in request.get("params", ()) if each["type"] == "path"}
        assert used <= variables


def _signs_in(operation: Json) -> dict[str, bool]:
    """As whom a request signs in, of those who may: as a user, if it can be one."""
    may = [name for each in operation["security"] for name in each]
    return {"user": "user" in may, "admin": may == ["admin"]}


def test_whoever_sends_a_transfer_finds_its_id_in_the_request_for_the_job(document: Json) -> None:
    files = make_collection(document)
    keeping = (
        '  const job_id = res.body?.job_id ?? res.body?.transfer_id;\n  if (job_id) bru.setVar("job_id", job_id);\n'
    )
    assert f"script:post-response {{\n{keeping}}}\n" in files["Money/transfer_later.bru"]
    assert "  job_id: {{job_id}}\n" in files["Jobs/job.bru"]


def test_where_tokens_are_wanted_requests_have_one(make_app: AppMaker, node: Node) -> None:
    app = make_app(auth_mode="jwt", jwt_secret="s" * 32)
    read = _read(node, make_collection(make_document(app)))
    assert read["Reads/balance.bru"]["auth"] == {"bearer": {"token": "{{token}}"}}
    assert "headers" not in read["Reads/balance.bru"]
    assert read["Administration/audit.bru"]["auth"]["basic"]["password"] == "{{adminPassword}}"
    secret = {each["name"] for each in read[ENVIRONMENT]["variables"] if each["secret"]}
    assert secret == {"adminPassword", "token"}
