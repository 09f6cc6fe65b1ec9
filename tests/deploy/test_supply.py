"""What is delivered: the list of its parts (SBOM), and their licences."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.files import CHECKOUT
from tests.deploy.licences import refused
from tests.deploy.locks import pins


def test_each_package_in_the_images_has_a_licence_that_may_be_there() -> None:
    assert refused() == {}


@pytest.fixture(scope="module")
def boms() -> Path:
    """Where the session of the task runner writes the SBOMs; the validation by a schema takes ten times as long."""
    nox = Path(sys.executable).with_name("nox")
    subprocess.run([nox, "-s", "sbom", "--", "--no-validate"], cwd=CHECKOUT, check=True, capture_output=True)
    return CHECKOUT / "dist" / "sbom"


@pytest.mark.parametrize("image", ["api", "worker"])
def test_the_sbom_of_an_image_has_each_package_with_version_and_hashes(boms: Path, image: str) -> None:
    bom = json.loads((boms / f"{image}.cdx.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    about = bom["metadata"]["component"]
    assert (about["name"], about["version"]) == (project["name"], project["version"])
    listed = {(each["name"], each["version"]) for each in bom["components"]}
    assert listed == {(pin.name, pin.version) for pin in pins(image)}
    for component in bom["components"]:
        assert component["purl"].startswith(f"pkg:pypi/{component['name']}@{component['version']}")
        assert any(reference.get("hashes") for reference in component["externalReferences"]), component["name"]
