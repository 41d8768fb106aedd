"""A file of opening balances is read whole, or refused with what is wrong in which line."""

import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ledger import import_file
from models.ledger.import_file import FileRefused, Opening, Problem, read

MAX = 2**63 - 1
OPENINGS = [Opening(7, 100), Opening(8, 0)]


def refusal(raw: bytes) -> FileRefused:
    with pytest.raises(FileRefused) as refused:
        read(io.BytesIO(raw))
    return refused.value


def problems(text: str) -> list[Problem]:
    return refusal(text.encode()).problems


@pytest.mark.parametrize(
    "raw",
    [
        b"user_id,balance\n7,100\n8,0\n",
        b"user_id,balance\n7,100\n8,0",
        b"user_id,balance\r\n7,100\r\n8,0\r\n",
        b"user_id,balance\r7,100\r8,0\r",
        b"\xef\xbb\xbfuser_id,balance\r\n7,100\r\n8,0\r\n",
        b' user_id , balance \n\n"7",100\n\n 8 ,00\n , \n',
        "user_id,balance\r\n7,100\r\n8,0\r\n".encode("utf-16"),
        b"\xfe\xff" + "user_id,balance\n7,100\n8,0\n".encode("utf-16-be"),
    ],
    ids=["plain", "no end", "crlf", "cr", "bom", "blanks and quotes", "utf-16-le", "utf-16-be"],
)
def test_any_spelling_of_the_same_rows_is_read(raw: bytes) -> None:
    assert read(io.BytesIO(raw)) == OPENINGS


def test_the_bounds_themselves_are_taken() -> None:
    raw = f"user_id,balance\n1,0\n{MAX},{MAX}\n".encode()
    assert read(io.BytesIO(raw)) == [Opening(1, 0), Opening(MAX, MAX)]


@pytest.mark.parametrize("user_id", ["0", "-1", str(MAX + 1), "x", "", "1.0", "1_0", "+1", "\u0661", "1" * 5000, "\0"])
def test_a_user_that_cannot_be_is_named_with_its_line(user_id: str) -> None:
    (found,) = problems(f"user_id,balance\n1,1\n{user_id},1\n")
    assert (found.line, found.what.partition(":")[0]) == (3, "user_id")
    assert len(found.what) < 150


@pytest.mark.parametrize("balance", ["-1", str(MAX + 1), "x", "", "1.00", "1e3", "1_0", "100 EUR", "=1+1"])
def test_a_balance_that_cannot_be_is_named_with_its_line(balance: str) -> None:
    (found,) = problems(f"user_id,balance\n1,{balance}\n2,1\n")
    assert (found.line, found.what.partition(":")[0]) == (2, "balance")


def test_a_user_that_stands_twice_is_named_with_both_lines() -> None:
    assert problems("user_id,balance\n1,1\n2,1\n1,1\n01,5\n") == [
        Problem(4, "user_id: 1 stands in line 2 already"),
        Problem(5, "user_id: 1 stands in line 2 already"),
    ]


@pytest.mark.parametrize(
    "header", ["", "\n7,1", "user_id;balance\n7;1", "balance,user_id\n1,7", "user_id\n7", "7,1\n8,1"]
)
def test_without_the_header_nothing_is_guessed(header: str) -> None:
    (found,) = problems(header)
    assert (found.line, found.what) == (1, "the first line must be user_id,balance")


def test_a_row_of_another_width_is_named() -> None:
    assert problems("user_id,balance\n1\n1,2,3\n") == [
        Problem(2, "must have 2 fields, has 1"),
        Problem(3, "must have 2 fields, has 3"),
    ]


def test_a_header_alone_is_no_import() -> None:
    assert problems("user_id,balance\n\n") == [Problem(2, "there are no rows below the header")]


def test_a_quote_that_never_ends_is_told_as_such() -> None:
    assert problems('user_id,balance\n1,1\n"2,1\n3,1\n')[0].what.startswith("not CSV: ")


def test_what_is_no_text_is_refused() -> None:
    assert refusal(b"user_id,balance\n1,\xff\xfe\n").problems[0].line == 2
    assert refusal(bytes(range(256))).count >= 1


def test_the_first_problems_are_shown_and_all_are_counted() -> None:
    refused = refusal(b"user_id,balance\n" + b"x,1\n" * 1_000)
    assert (len(refused.problems), refused.count) == (import_file.MAX_SHOWN, 1_000)
    assert [each.line for each in refused.problems] == list(range(2, 2 + import_file.MAX_SHOWN))


def test_a_file_has_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"user_id,balance\n1,1\n2,1\n3,1\n"
    monkeypatch.setattr(import_file, "MAX_ROWS", 3)
    monkeypatch.setattr(import_file, "MAX_BYTES", len(raw))
    assert len(read(io.BytesIO(raw))) == 3
    assert refusal(raw + b"\n").problems == [Problem(1, f"the file is larger than {len(raw)} bytes")]
    monkeypatch.setattr(import_file, "MAX_ROWS", 2)
    assert refusal(raw).problems == [Problem(4, "more than 2 rows; split the file")]


@given(st.binary(max_size=300))
def test_no_bytes_at_all_do_more_than_be_refused(raw: bytes) -> None:
    for body in (raw, b"user_id,balance\n" + raw):
        with suppress(FileRefused):
            assert all(1 <= user_id <= MAX and 0 <= cents <= MAX for user_id, cents in read(io.BytesIO(body)))
