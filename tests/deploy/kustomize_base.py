"""`python -m tests.deploy.kustomize_base` writes the objects of `docker/kubernetes/`, as the Helm chart makes them.

Settings and images are left to Kustomize: see `docker/kubernetes/kustomization.yaml`.
"""

import re

from tests.deploy.chart import texts
from tests.deploy.files import KUBERNETES

VALUES = {
    "secrets": {"broker": {"existingSecret": "atlas-broker"}},
    "atlas": {"projectId": "000000000000000000000001", "existingSecret": "atlas-broker-atlas"},
    "flower": {"enabled": True},
    "serviceCatalog": {"enabled": True, "existingSecret": "atlas-broker-catalog"},
}
FILES = {
    "serviceaccount.yaml": "serviceaccount.yaml",
    "api/": "api.yaml",
    "workers/": "workers.yaml",
    "flower/": "flower.yaml",
    "service-catalog/": "service-catalog/broker.yaml",
}
"""Where the objects of the chart's templates go."""

HELMS_OWN = re.compile(
    r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^ +annotations:\n +checksum/settings: .*\n", re.MULTILINE
)


def generated() -> dict[str, str]:
    """Return the content of each file."""
    made: dict[str, list[str]] = {}
    for template, text in sorted(texts(VALUES, "atlas-broker", "atlas-broker").items()):
        for beginning, file in FILES.items():
            if template.startswith(beginning):
                made.setdefault(file, []).append(HELMS_OWN.sub("", text).strip().removeprefix("---\n"))
    head = "# Made from docker/helm/atlas-broker by python -m tests.deploy.kustomize_base.\n---\n"
    return {file: head + "\n---\n".join(parts) + "\n" for file, parts in made.items()}


if __name__ == "__main__":
    for name, content in generated().items():
        (KUBERNETES / name).write_text(content)
