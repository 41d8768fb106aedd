"""What stands under deploy/kubernetes, as the tests read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import yaml

from tests.project import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
KUSTOMIZATION = "kustomization.yaml"
KUSTOMIZATIONS = sorted(path.parent for path in FOLDER.rglob(KUSTOMIZATION))
# The oldest that has all that is used, and the newest that the schemas are there of.
VERSIONS = ("1.31", "1.37")
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
SERVICE = ("api", "grpc", "worker", "webhooks")
WORKLOADS = ("Deployment", "Job")

Manifest = dict[str, Any]


class Pod(NamedTuple):
    """What pods are made of, by one Deployment or Job."""

    owner: Manifest
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Manifest

    @property
    def container(self) -> Manifest:
        """Its only one."""
        (container,) = self.spec["containers"]
        return container  # type: ignore[no-any-return]

    @property
    def secrets(self) -> dict[str, str]:
        """The secret that each variable comes from."""
        found = {
            each["name"]: each["valueFrom"]["secretKeyRef"] for each in self.container["env"] if "value" not in each
        }
        assert all(name == key["key"] for name, key in found.items())
        return {name: key["name"] for name, key in found.items()}

    @property
    def values(self) -> dict[str, str]:
        """The variables whose values stand in the manifest itself."""
        return {each["name"]: each["value"] for each in self.container["env"] if "value" in each}

    @property
    def shared(self) -> list[str]:
        """The names of the settings it has together with others."""
        return [each["configMapRef"]["name"] for each in self.container["envFrom"]]


def kustomization(folder: Path) -> Manifest:
    """Return what a folder says of itself."""
    return _load(folder / KUSTOMIZATION)[0]


def files(folder: Path) -> list[Path]:
    """Return the files of manifests that a folder brings in, but for those of others that it stands on."""
    return [folder / name for name in kustomization(folder)["resources"] if (folder / name).is_file()]


def read(folder: Path) -> list[Manifest]:
    """Return the manifests of a folder, and those alone."""
    return [manifest for path in files(folder) for manifest in _load(path)]


def literals(folder: Path) -> dict[str, dict[str, str]]:
    """Return the settings that a folder has made ConfigMaps of, by their names."""
    return {
        each["name"]: dict(literal.split("=", 1) for literal in each["literals"])
        for each in kustomization(folder)["configMapGenerator"]
    }


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return those of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests: list[Manifest]) -> dict[str, Pod]:
    """Return all pods by their component."""
    found = {}
    for owner in of_kind(manifests, *WORKLOADS):
        template = owner["spec"]["template"]
        metadata = template["metadata"]
        pod = Pod(owner, metadata["labels"], metadata.get("annotations", {}), template["spec"])
        found[pod.labels[COMPONENT]] = pod
    return found


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector means what has these labels."""
    for each in selector.get("matchExpressions", ()):
        is_one_of_them = labels.get(each["key"]) in each["values"]
        if is_one_of_them is not {"In": True, "NotIn": False}[each["operator"]]:
            return False
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def validate(manifest: Manifest) -> None:
    """Compare with Kubernetes' own schemas; a field that they do not know is wrong, too.

    Raises:
        ValidationError: it does not fit.
    """
    for version in VERSIONS:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def _load(path: Path) -> list[Manifest]:
    return list(_documents(path.read_text()))


def _documents(text: str) -> Iterator[Manifest]:
    yield from filter(None, yaml.safe_load_all(text))
