"""A log stays bounded while processes write to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.local.log_files import open_log, rotate_log
from ops.local.processes import wait_for
from tests import small_disk
from tests.patience import PATIENCE_S

# A line is one write, as it is with the service's own.
WRITER = "import os\nnumber = 0\nwhile True:\n    os.write(1, b'%d\\n' % number)\n    number += 1"


def test_a_log_is_put_aside_once_it_is_large(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with open_log(path) as log:
        log.write(b"12345")
        assert not rotate_log(path, max_bytes=5)
        log.write(b"6")
        assert rotate_log(path, max_bytes=5)
        log.write(b"after")
    assert path.read_text() == "after"
    kept = tmp_path / "a.log.1"
    assert kept.read_text() == "123456"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [path, kept]


def test_one_old_log_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for text in ("first", "second"):
        path.write_text(text)
        assert rotate_log(path, max_bytes=1)
    assert (tmp_path / "a.log.1").read_text() == "second"


def test_lines_stay_whole_and_in_order_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    kept = tmp_path / "a.log.1"
    with open_log(path) as log, subprocess.Popen([sys.executable, "-c", WRITER], stdout=log) as writer:
        try:
            for _ in range(5):
                assert wait_for(lambda: path.stat().st_size > 10_000, PATIENCE_S)
                assert rotate_log(path, max_bytes=10_000)
                numbers = [int(line) for line in kept.read_text().splitlines()]
                assert numbers == list(range(numbers[0], numbers[-1] + 1))
                assert wait_for(lambda: path.stat().st_size > 100, PATIENCE_S)
                assert int(path.read_text().partition("\n")[0]) > numbers[-1]
        finally:
            writer.kill()


def test_of_a_line_that_is_lost_no_half_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_text("first\nsec")
    truncate = os.truncate

    def write_first(path: Path, length: int) -> None:
        with open_log(path) as log:
            log.write(b"ond\n")
        truncate(path, length)

    monkeypatch.setattr(os, "truncate", write_first)
    assert rotate_log(path, max_bytes=1)
    assert (tmp_path / "a.log.1").read_text() == "first\n"


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("x" * 10_000)
    (tmp_path / ".a.log.1.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        rotate_log(path, max_bytes=1)
    assert path.read_text() == "x" * 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_that_has_no_room_for_its_copy_is_left_alone(tmp_path: Path) -> None:
    try:
        with small_disk.mounted(tmp_path / "disk", size="100k") as disk:
            path = disk / "a.log"
            path.write_text("x" * 40_000)
            assert not rotate_log(path, max_bytes=1)
            assert list(disk.iterdir()) == [path]
            path.write_text("x" * 20_000)
            assert rotate_log(path, max_bytes=1)
    except PermissionError as error:
        pytest.skip(str(error))
