"""What the monitoring's containers are told."""

import json
import os
import stat
from pathlib import Path

import pytest

from ops.compose import monitoring_files, secret_files
from ops.compose.monitoring_files import GRAFANA_GROUP, POSTGRES_EXPORTER_GROUP, REDIS_EXPORTER_GROUP
from ops.compose.secret_files import BadSecret

NASTY = "a'\"\\ $HOME %41 @/:?#\N{LATIN SMALL LETTER E WITH ACUTE};--"


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups that files were given to; only who is in a group can really do that."""
    given_to: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda _file, _user, group: given_to.append(group))
    return given_to


@pytest.fixture
def service(tmp_path: Path, groups: list[int]) -> Path:
    """The service's own secrets."""
    folder = tmp_path / "service"
    folder.mkdir()
    secret_files.write(folder, {"REDIS_PASSWORD": NASTY, "MONITOR_PASSWORD": NASTY})
    groups.clear()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the copies go."""
    folder = tmp_path / "monitoring"
    folder.mkdir()
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_each_is_told_what_it_needs_whatever_is_in_it(folder: Path, service: Path, groups: list[int]) -> None:
    monitoring_files.write(folder, service=service, given={})
    found = _contents(folder)
    assert json.loads(found.pop("redis_passwords.json")) == {"redis://redis:6379": NASTY}
    assert len(found.pop("grafana_password")) > secret_files.SECRET_BYTES
    assert found == {"postgres_user": "wallet_monitor", "postgres_password": NASTY}
    assert groups == [POSTGRES_EXPORTER_GROUP, POSTGRES_EXPORTER_GROUP, REDIS_EXPORTER_GROUP, GRAFANA_GROUP]


@pytest.mark.usefixtures("groups")
def test_a_password_is_made_up_once_and_one_that_is_given_wins(folder: Path, service: Path) -> None:
    monitoring_files.write(folder, service=service, given={"GRAFANA_PASSWORD": ""})
    first = _contents(folder)
    monitoring_files.write(folder, service=service, given={})
    assert _contents(folder) == first
    monitoring_files.write(folder, service=service, given={"GRAFANA_PASSWORD": NASTY})
    monitoring_files.write(folder, service=service, given={})
    assert _contents(folder)["grafana_password"] == NASTY


@pytest.mark.usefixtures("groups")
def test_what_has_changed_is_told_anew(folder: Path, service: Path) -> None:
    monitoring_files.write(folder, service=service, given={})
    secret_files.write(service, {"REDIS_PASSWORD": "another"})
    monitoring_files.write(folder, service=service, given={})
    assert json.loads(_contents(folder)["redis_passwords.json"]) == {"redis://redis:6379": "another"}


@pytest.mark.usefixtures("groups")
def test_nobody_else_may_read_it(folder: Path, service: Path) -> None:
    monitoring_files.write(folder, service=service, given={})
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o440}


@pytest.mark.usefixtures("groups")
def test_a_password_of_two_lines_is_refused_by_name(
    folder: Path, service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSecret, match=r"^GRAFANA_PASSWORD: [^\n]*$"):
        monitoring_files.write(folder, service=service, given={"GRAFANA_PASSWORD": "first\nsecond"})
    monkeypatch.setattr(monitoring_files, "FOLDER", folder)
    monkeypatch.setattr(secret_files, "FOLDER", service)
    monkeypatch.setenv("GRAFANA_PASSWORD", "first\nsecond")
    assert monitoring_files.main() == 2
    assert "first" not in capsys.readouterr().err
    assert _contents(folder) == {}
    monkeypatch.setenv("GRAFANA_PASSWORD", "one line")
    assert monitoring_files.main() == 0
    assert _contents(folder)["grafana_password"] == "one line"
