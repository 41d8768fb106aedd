"""Long answers come compressed to whoever wants them so, and as they are to everyone else."""

import gzip
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from flask_compress import flask_compress

from api.edge.compression import MIN_BYTES
from tests.api.calls import BALANCE, DEPOSIT, HISTORY, answer, ask, fund, post, problem, undocumented

LONG = f"{HISTORY}?page_size=100"
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda data: flask_compress._uncompress_data(data, "zstd"),
}


@pytest.fixture
def rich(client: FlaskClient) -> FlaskClient:
    """A client of an application with a history."""
    fund(client, *[1] * 10)
    return client


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.1, gzip", "gzip"),
    ],
)
def test_a_long_answer_is_the_same_after_the_round_trip(rich: FlaskClient, accepted: str, encoding: str) -> None:
    plain = ask(rich, "GET", LONG)
    assert len(plain.data) > MIN_BYTES
    packed = ask(rich, "GET", LONG, headers={"Accept-Encoding": accepted})
    assert packed.headers["Content-Encoding"] == encoding
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 3
    assert DECODERS[encoding](packed.data) == plain.data
    assert packed.content_type == plain.content_type == "application/json"
    assert "Accept-Encoding" in packed.headers["Vary"]


@pytest.mark.parametrize(
    "accepted",
    [
        None,
        "",
        "identity",
        "br",
        "deflate",
        "x",
        "gzip;q=0",
        "gzip; q=0.0",
        "gzip;q=0, *",
        "zstd;q=0, gzip;q=0.000, br",
    ],
)
def test_who_does_not_ask_for_it_gets_it_as_it_is(rich: FlaskClient, accepted: str | None) -> None:
    response = ask(rich, "GET", LONG, headers={} if accepted is None else {"Accept-Encoding": accepted})
    assert "transactions" in answer(response)
    assert "Content-Encoding" not in response.headers
    # A cache on the way must not give this answer to the others either.
    assert response.headers["Vary"] == "Accept-Encoding"


def test_short_answers_and_problems_are_left_alone(rich: FlaskClient) -> None:
    headers = {"Accept-Encoding": "gzip"}
    short = ask(rich, "GET", BALANCE, headers=headers)
    answer(short)
    # The longest of problems: it repeats what was asked, and so must not tell by its length how well that was guessed.
    lost = ask(rich, "GET", "/" + "x" * 3_000, headers=headers)
    problem(lost, "not_found")
    moved = post(rich, DEPOSIT, {"amount": 1}, headers=headers)
    answer(moved)
    for response in (short, lost, moved):
        assert "Content-Encoding" not in response.headers
        assert "Vary" not in response.headers


@pytest.mark.parametrize(("length", "packed"), [(MIN_BYTES - 1, False), (MIN_BYTES, True)])
def test_the_bound_is_in_bytes(app: Flask, length: int, *, packed: bool) -> None:
    app.add_url_rule("/text", view_func=lambda: Response("x" * length, mimetype="text/plain"))
    response = ask(undocumented(app), "GET", "/text", headers={"Accept-Encoding": "gzip"})
    assert ("Content-Encoding" in response.headers) is packed


@pytest.mark.parametrize("mimetype", ["application/octet-stream", "image/png", "text/html", "text/event-stream"])
def test_other_kinds_are_left_alone(app: Flask, mimetype: str) -> None:
    app.add_url_rule("/other", view_func=lambda: Response("x" * 5_000, mimetype=mimetype))
    response = ask(undocumented(app), "GET", "/other", headers={"Accept-Encoding": "gzip"})
    assert response.data == b"x" * 5_000
    assert "Content-Encoding" not in response.headers


def test_a_stream_arrives_piece_by_piece(app: Flask) -> None:
    made: list[str] = []

    def pieces() -> Iterator[str]:
        for number in range(3):
            made.append(str(number))
            yield "x" * 5_000

    app.add_url_rule("/stream", view_func=lambda: Response(pieces(), mimetype="text/plain"))
    response = undocumented(app).get("/stream", headers={"Accept-Encoding": "gzip"}, buffered=False)
    arriving = response.iter_encoded()
    assert next(iter(arriving)) == b"x" * 5_000
    assert made == ["0"]
    assert "Content-Encoding" not in response.headers
    response.close()


def test_what_is_compressed_already_is_left_alone(app: Flask) -> None:
    packed = gzip.compress(b"x" * 5_000_000)
    assert len(packed) > MIN_BYTES
    headers = {"Content-Encoding": "gzip"}
    app.add_url_rule("/packed", view_func=lambda: Response(packed, mimetype="text/plain", headers=headers))
    assert ask(undocumented(app), "GET", "/packed", headers={"Accept-Encoding": "gzip"}).data == packed
