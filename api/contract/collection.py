"""A collection for Bruno, made of the OpenAPI document: one request for each operation, ready to be sent.

Bruno keeps requests in files of its own language (``.bru``), which are made to be kept beside the code. What a document
says of a request is spelled in it: credentials, path, query, an example of the body. What it says of going on (its
links) becomes a variable: whoever has sent a transfer finds its id in the request for the job.
"""

import json
import re
from collections.abc import Iterator, Mapping

from api.contract.components import Json

ENVIRONMENT = "environments/local.bru"
# Where `make run` listens, and who has a wallet there.
_VARIABLES = {"baseUrl": "http://127.0.0.1:8080", "adminUser": "admin"}
_USER = {"userId": "1"}
_SECRETS = ("adminPassword",)
_TOKEN = ("token",)
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_POINTER = re.compile(r"\$response\.body#/(.+)")
_DOCS = "Made of `/openapi.json` by `make collection`. The environment `local` is the service that `make run` starts."


def make_collection(document: Json) -> dict[str, str]:
    """Return the files of the collection, by their paths in its folder."""
    name = document["info"]["title"]
    is_believed = document["components"]["securitySchemes"]["user"]["type"] == "apiKey"
    about = {"version": "1", "name": name, "type": "collection", "ignore": ["node_modules", ".git"]}
    files = {"bruno.json": json.dumps(about, indent=2) + "\n", "collection.bru": _block("docs", [_DOCS])}
    variables: dict[str, str] = {}
    for place, tag in enumerate(document["tags"], 1):
        folder = tag["name"]
        requests = list(_requests_of(document, folder))
        if requests:
            docs = _block("docs", [tag["description"]])
            files[f"{folder}/folder.bru"] = _block("meta", [f"name: {folder}", f"seq: {place}"]) + "\n" + docs
        for number, (method, path, operation) in enumerate(requests, 1):
            request = _Request(document, method, path, operation, is_believed=is_believed)
            files[f"{folder}/{operation['operationId']}.bru"] = request.spell(number)
            variables |= request.path_values
    files[ENVIRONMENT] = _environment(variables, is_believed=is_believed)
    return files


def _requests_of(document: Json, tag: str) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["tags"] == [tag]:
                yield method, path, operation


def _environment(variables: Mapping[str, str], *, is_believed: bool) -> str:
    shown = {**_VARIABLES, **(_USER if is_believed else {}), **variables}
    secrets = ",\n".join(f"  {name}" for name in (*_SECRETS, *(() if is_believed else _TOKEN)))
    return _block("vars", [f"{name}: {value}" for name, value in shown.items()]) + f"vars:secret [\n{secrets}\n]\n"


class _Request:
    """One operation, as Bruno spells it."""

    def __init__(self, document: Json, method: str, path: str, operation: Json, *, is_believed: bool) -> None:
        self._document = document
        self._method = method
        self._operation = operation
        self._is_believed = is_believed
        self._parameters = [self._resolve(each) for each in operation["parameters"]]
        self._url = "{{baseUrl}}" + _PATH_PARAMETER.sub(r":\1", path)
        self.path_values = {each["name"]: str(each.get("example", "1")) for each in self._in("path")}

    def spell(self, number: int) -> str:
        """Return the file; ``number``: its place in the folder."""
        body = self._operation.get("requestBody", {}).get("content", {}).get("application/json")
        required = [each for each in self._in("query") if each["required"]]
        query = "&".join(f"{each['name']}={_example(each)}" for each in required)
        name = self._operation["operationId"].replace("_", " ").capitalize()
        blocks = [
            _block("meta", [f"name: {name}", "type: http", f"seq: {number}"]),
            _block(
                self._method,
                [
                    f"url: {self._url}{'?' * bool(query)}{query}",
                    f"body: {'json' if body else 'none'}",
                    f"auth: {self._sign_in()}",
                ],
            ),
            # What may be left out is there to be switched on.
            _block(
                "params:query",
                [f"{'' if each['required'] else '~'}{each['name']}: {_example(each)}" for each in self._in("query")],
            ),
            _block("params:path", [f"{name}: {{{{{name}}}}}" for name in self.path_values]),
            _block("headers", self._headers()),
            _block(*self._credentials()),
            _block("body:json", json.dumps(body["example"], indent=2, ensure_ascii=False).splitlines() if body else ()),
            _block("script:post-response", list(self._going_on())),
            _block("docs", self._docs()),
        ]
        return "\n".join(block for block in blocks if block)

    def _in(self, place: str) -> list[Json]:
        return [each for each in self._parameters if each["in"] == place]

    def _resolve(self, schema: Json) -> Json:
        while "$ref" in schema:
            found = self._document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            schema = found
        return schema

    @property
    def _scheme(self) -> str | None:
        """The first way to sign in: as a user where users may, too."""
        schemes = [name for each in self._operation["security"] for name in each]
        return schemes[0] if schemes else None

    def _sign_in(self) -> str:
        if self._scheme == "admin":
            return "basic"
        return "bearer" if self._scheme == "user" and not self._is_believed else "none"

    def _credentials(self) -> tuple[str, list[str]]:
        match self._sign_in():
            case "basic":
                return "auth:basic", ["username: {{adminUser}}", "password: {{adminPassword}}"]
            case "bearer":
                return "auth:bearer", ["token: {{token}}"]
        return "", []

    def _headers(self) -> list[str]:
        headers = ["Authorization: {{userId}}"] if self._scheme == "user" and self._is_believed else []
        # A new one each time it is sent: who wants a replay writes one of his own.
        keys = [each["name"] for each in self._in("header") if each["name"] == "Idempotency-Key"]
        return headers + [f"{name}: {{{{$randomUUID}}}}" for name in keys]

    def _going_on(self) -> Iterator[str]:
        """Iterate over lines that keep what its answers have for the paths of others; without any, what was is left."""
        found: dict[str, list[str]] = {}
        for response in self._operation["responses"].values():
            for each in response.get("links", {}).values():
                for name, value in self._resolve(each)["parameters"].items():
                    if name in self._path_parameters and (pointer := _POINTER.fullmatch(value)):
                        found.setdefault(name, []).append("res.body" + "".join(map(_step, pointer[1].split("/"))))
        for name, values in found.items():
            yield f"const {name} = {' ?? '.join(dict.fromkeys(values))};"
            yield f'if ({name}) bru.setVar("{name}", {name});'

    @property
    def _path_parameters(self) -> set[str]:
        return {name for path in self._document["paths"] for name in _PATH_PARAMETER.findall(path)}

    def _docs(self) -> list[str]:
        return [f"{self._operation['summary']}.", *self._operation.get("description", "").splitlines()]


def _block(name: str, lines: list[str] | tuple[()]) -> str:
    """Spell a block; one without lines is none."""
    inner = "".join(f"  {line}".rstrip() + "\n" for line in lines)
    return f"{name} {{\n{inner}}}\n" if lines else ""


def _step(name: str) -> str:
    """Go one step into an answer that may not have it."""
    return f"?.[{name}]" if name.isdigit() else f"?.{name}"


def _example(parameter: Json) -> object:
    """Return a value that a parameter may have."""
    schema = parameter["schema"]
    for found in (
        parameter.get("example"),
        schema.get("default"),
        *schema.get("examples", ()),
        *schema.get("enum", ()),
    ):
        if found is not None:
            return found
    return 1
