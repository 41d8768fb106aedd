"""The program on the page about Kafka that follows events: run, run again, and told everything twice."""

from pathlib import Path

import pytest

from tests.chaos.stack import Stack
from tests.clients.typing_in import PYTHON, type_command
from tests.docs.pages import DOCS, blocks, section
from wallet_client import WalletClient

SECTION = section(DOCS / "kafka.md", "Following events")
GROUP = '"group.id": "received"'

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.xdist_group("kafka")]


def _pay(stack: Stack, cents: int) -> None:
    """Pay as a job, and wait until it is done."""
    with WalletClient(f"http://127.0.0.1:{stack.port}", user_id=1) as payer:
        assert payer.wait_for(payer.transfer_later(2, cents).job_id).is_posted


def test_the_pages_program_prints_what_the_page_says_also_when_it_is_told_all_twice(java: None, tmp_path: Path) -> None:
    del java
    (program,) = blocks(SECTION, "python")
    assert program.count(GROUP) == 1
    (tmp_path / "client").mkdir()
    page = tmp_path / "client" / "follow.py"
    page.write_text(program)
    (shown,) = blocks(SECTION, "console")
    command, _, told = shown[shown.index(f"$ {PYTHON} ") :].removeprefix("$ ").partition("\n")
    with Stack(tmp_path / "home", TRANSPORT="kafka", WORKERS="1") as stack:
        _pay(stack, 667)
        command = command.replace("127.0.0.1:19092", stack.state()["kafka"]["brokers"])
        assert type_command(tmp_path, command) == told
        # For a group of another name all of it is new.
        page.write_text(program.replace(GROUP, '"group.id": "anew"'))
        _pay(stack, 1)
        assert type_command(tmp_path, command) == told.replace("10667", "10668")
