"""Archives are proven: whatever is done to a file, a digest or an opening is found, and named."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models.audit.archived import MAX_TOLD, prove
from models.ledger import archive_file
from models.ledger.orders import Orders
from tests.models.ledger.archiving import OLD, age, archive, proven
from tests.models.ledger.ordering import bounded_engine, deposit, transfer, withdrawal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archives"


@pytest.fixture
def files(engine: Engine, orders: Orders, folder: Path) -> list[Path]:
    """Two archives in a chain: of two wallets, and of one of them and a third."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 50))
    age(engine)
    archive(engine, folder)
    orders.execute(transfer(1, 2, 30))
    orders.execute(deposit(3, 9))
    age(engine, "wallet_id <> 2", at=OLD)
    archive(engine, folder)
    orders.execute(withdrawal(3, 4))
    return sorted(folder.iterdir())


def problem_of(engine: Engine, folder: Path) -> str:
    """The one thing that is wrong."""
    (problem,) = prove(engine, folder).problems
    return problem


def test_a_chain_is_proven_by_the_services_role_as_well(
    engine: Engine, service_database_url: str, files: list[Path], folder: Path
) -> None:
    seen: list[str] = []
    proof = prove(engine, folder, progress=seen.append)
    assert (proof.archives, proof.entries, proof.transfers, proof.problems, proof.unknown) == (2, 4, 3, [], [])
    assert seen == [path.name for path in files]
    heads = [archive_file.read(path)[0] for path in files]
    assert [head.previous for head in heads] == ["", archive_file.digest_of(files[0]).hex()]
    with bounded_engine(service_database_url) as service:
        proven(service, folder)


def test_nothing_that_has_left_is_proven_by_nothing(engine: Engine, folder: Path) -> None:
    assert proven(engine, folder).archives == 0


def change(path: Path, old: bytes, new: bytes) -> None:
    content = gzip.decompress(path.read_bytes())
    assert old in content
    path.write_bytes(gzip.compress(content.replace(old, new, 1)))


TAMPERED: list[tuple[Callable[[list[Path]], object], str]] = [
    (lambda files: files[0].unlink(), "archive-000001-.*: No such file or directory"),
    (lambda files: files[1].unlink(), "archive-000002-.*: No such file or directory"),
    (lambda files: files[0].write_bytes(files[0].read_bytes()[:-9]), "archive-000001-.*: its digest is another"),
    (lambda files: files[0].write_bytes(files[1].read_bytes()), "archive-000001-.*: its digest is another"),
    (lambda files: change(files[0], b'"amount":100', b'"amount":101'), "archive-000001-.*: its digest is another"),
]


@pytest.mark.parametrize(("tamper", "told"), TAMPERED)
def test_a_file_that_is_not_as_it_was_is_named(
    engine: Engine, files: list[Path], folder: Path, tamper: Callable[[list[Path]], object], told: str
) -> None:
    tamper(files)
    assert re.match(told, problem_of(engine, folder))


FORGED: list[tuple[bytes, bytes, str]] = [
    (b'"amount":100', b'"amount":101', "entry 1 of wallet 1 does not go on from number 0"),
    (b'"seq":1,"transfer_id"', b'"seq":2,"transfer_id"', "entry 2 of wallet 1 does not go on from number 0"),
    (b'"moved":"150"', b'"moved":"151"', "cents moved and made come to (2, 2, 2, 150, 150); it says (2, 2, 2, 151,"),
    (b'"number":1', b'"number":3', "it says that it is number 3, after none"),
    (b'"previous":""', b'"previous":"00"', "it says that it is number 1, after 00"),
    (b'"format":1', b'"format":9', "its first line is not an archive's"),
    (b'"format":1', b'"format":1,"more":1', "its first line is not an archive's"),
    (b'{"archive"', b'{"entry"', "its first line is not an archive's"),
    (b'{"archive"', b'"archive"', "it cannot be read"),
]


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_file_does_not_go_on_even_with_a_forged_digest(
    engine: Engine, files: list[Path], folder: Path, forgery: tuple[bytes, bytes, str]
) -> None:
    """Whoever can change the database, too, still has to make all of it fit."""
    *words, told = forgery
    change(files[0], *words)
    digest = archive_file.digest_of(files[0])
    files[0].rename(folder / archive_file.name_of(1, digest))
    with engine.begin() as connection:
        connection.execute(text("UPDATE archives SET digest = :digest WHERE id = 1"), {"digest": digest})
    assert told in problem_of(engine, folder)


@pytest.mark.usefixtures("files")
def test_an_archive_that_the_database_has_lost_is_missed(engine: Engine, folder: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM archives WHERE id = 1"))
    problems = prove(engine, folder).problems
    assert problems[0] == "the database has no archive 1"


@pytest.mark.parametrize(
    ("crime", "told"),
    [
        (
            "UPDATE openings SET balance = 99 WHERE wallet_id = 1",
            "wallet 1: the database opens with 99 after entry 2, the files end with 70 after entry 2",
        ),
        (
            "UPDATE openings SET seq = 2 WHERE wallet_id = 2",
            "wallet 2: the database opens with 50 after entry 2, the files end with 50 after entry 1",
        ),
        ("DELETE FROM openings WHERE wallet_id = 3", "wallet 3: its entries have left, and it has no opening"),
        (
            "INSERT INTO openings VALUES (9, 1, 5, now(), 1)",
            "wallet 9: the database opens with 5 after entry 1, the files end with 0 after entry 0",
        ),
    ],
)
@pytest.mark.usefixtures("files")
def test_an_opening_that_the_files_do_not_come_to_is_named(engine: Engine, folder: Path, crime: str, told: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(crime))
    assert problem_of(engine, folder) == told


@pytest.mark.usefixtures("files")
def test_of_many_openings_that_are_wrong_some_are_named(engine: Engine, folder: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO openings SELECT n, 1, 1, now(), 1 FROM generate_series(101, 150) AS n"))
    problems = prove(engine, folder).problems
    assert (len(problems), problems[-1]) == (MAX_TOLD + 1, f"(and {50 - MAX_TOLD} more)")


def test_a_file_that_the_database_does_not_know_is_told_apart(engine: Engine, files: list[Path], folder: Path) -> None:
    (folder / "archive-000003-0123456789abcdef.jsonl.gz").write_bytes(files[0].read_bytes())
    assert proven(engine, folder).unknown == ["archive-000003-0123456789abcdef.jsonl.gz"]
