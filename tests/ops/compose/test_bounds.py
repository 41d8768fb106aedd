"""Of a container's memory, and of the images that it is made of: what can be told without an engine to run them."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from config import Settings, StackSettings
from ops.local.servers import PostgresServer
from tests.ops.compose.test_compose import COMPOSE, SERVICES
from tests.project import ROOT


def bytes_of(size: str) -> int:
    """What a size of compose's or of Redis's is, or what it is when nobody sets it."""
    size = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", size).lower().removesuffix("b")
    return int(size[:-1]) * {"m": 2**20, "g": 2**30}[size[-1]]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_has_a_bound_on_its_memory_and_on_its_files_in_memory(name: str) -> None:
    service = COMPOSE["services"][name]
    bound = bytes_of(service["mem_limit"])
    for folder in service.get("tmpfs", []):
        assert bytes_of(folder.partition("size=")[2]) <= bound // 2


def test_redis_has_room_to_copy_all_it_has_while_it_rewrites_its_file() -> None:
    most = SERVICES["redis"]["command"][SERVICES["redis"]["command"].index("--maxmemory") + 1]
    assert bytes_of(SERVICES["redis"]["mem_limit"]) >= 2 * bytes_of(most) + 200 * 2**20


# The server's entrypoint becomes this: it says what it is given.
TELL = '#!/bin/sh\nfor word; do echo "$word"; done\n'


@pytest.mark.parametrize(
    ("told", "connections"),
    [
        ({}, 100),
        (
            {"API_PROCESSES": "16", "GRPC_PROCESSES": "4", "WORKERS": "8", "DB_CONNECTIONS": "8"},
            (2 * 16 + 4 + 8) * 9 + 28,
        ),
    ],
)
def test_postgres_is_told_what_its_container_has(tmp_path: Path, told: dict[str, str], connections: int) -> None:
    program = tmp_path / "docker-entrypoint.sh"
    program.write_text(TELL)
    program.chmod(0o755)
    bound = tmp_path / "memory.max"
    bound.write_text(f"{2 * 2**30}\n")
    service = SERVICES["postgres"]
    *shell, script, name = [word.replace("$$", "$") for word in service["entrypoint"]]
    assert "/sys/fs/cgroup/memory.max" in script
    assumed = dict(re.findall(r"\$\{(\w+):-(\d+)\}", script))
    defaults = {
        name.upper(): str(field.default)
        for name, field in {**Settings.model_fields, **StackSettings.model_fields}.items()
    }
    assert assumed.items() <= defaults.items()
    said = subprocess.run(
        [*shell, script.replace("/sys/fs/cgroup/memory.max", str(bound)), name, *service["command"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **told},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[: len(service["command"])] == service["command"]
    given = dict(word.split("=") for word in said[1:] if word != "-c")
    assert given.pop("max_connections") == str(connections)
    assert (given["shared_buffers"], given["effective_cache_size"]) == ("512MB", "1536MB")
    with PostgresServer(tmp_path / "home", settings=given) as server:  # it takes them
        assert server.is_ready()


def test_images_of_others_are_of_one_minor_version_and_can_be_pinned(tmp_path: Path) -> None:
    for name in ("docker-compose.yml", "Dockerfile", "ops/compose/pin.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    # In the place of a registry: the same tag has another digest every time.
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        '#!/bin/sh\nfor image; do :; done\necho "$image" >> asked\nwc -l < asked | xargs printf "sha256:%064d\\n"\n'
    )
    docker.chmod(0o755)
    tags = _images(ROOT)
    search = f"{docker.parent}:{os.environ['PATH']}"
    pinned = []
    for _ in range(2):
        subprocess.run(["sh", "ops/compose/pin.sh"], cwd=tmp_path, env={"PATH": search}, check=True)
        pinned.append(_images(tmp_path))
        assert all(re.fullmatch(r"[^@]+@sha256:[0-9]{64}", image) for image in pinned[-1]), pinned
        assert {image.partition("@")[0] for image in pinned[-1]} == tags
    assert not pinned[0] & pinned[1]
    asked = (tmp_path / "asked").read_text().split()
    assert sorted(asked) == sorted([*tags] * 2)
    assert all(re.fullmatch(r"[a-z0-9_/-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", tag) for tag in tags), tags


def _images(folder: Path) -> set[str]:
    """Those of others, in both files."""
    services = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"].values()
    named = [re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", service["image"]) for service in services]
    base = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    return {*named, *base} - {"wallet-service"}
