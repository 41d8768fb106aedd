from pathlib import Path

import pytest

from bench.machine import filesystem_of


@pytest.mark.parametrize(("path", "kind"), [("/mnt/bench", "tmpfs"), ("/home/bench", "ext4"), ("/mntx/bench", "ext4")])
def test_the_deepest_mount_tells_the_filesystem(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\ntmpfs /mnt tmpfs rw 0 0\n")
    assert filesystem_of(Path(path), mounts) == kind


def test_without_a_list_of_mounts_it_is_unknown(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path, tmp_path / "absent") == "unknown"
