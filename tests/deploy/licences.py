"""The licences of the packages in the images, compared with those that may be there.

``python -m tests.deploy.licences`` prints them, and ends with 1 when one is not in the list.
"""

import re
import sys
from importlib import metadata

from tests.deploy.locks import Pin, pins

ALLOWED = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}
"""Licences by which the packages may be given away together with the broker, unchanged."""
SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What older packages say instead, in a classifier or in words."""
NOT_INSTALLED = {"async-timeout": "Apache-2.0", "colorama": "BSD-3-Clause", "tzdata": "Apache-2.0"}
"""Packages for other systems or Pythons, so that their metadata are not here."""


def packages() -> list[Pin]:
    """Return what is in the images, and what builds the broker there."""
    return sorted({*pins("api"), *pins("worker"), *pins("build")})


def licences(name: str) -> set[str]:
    """Return the licences of a package, by their SPDX names where they are known; empty when it tells none."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return {NOT_INSTALLED[name]} if name in NOT_INSTALLED else set()
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line[:7] == "License"]
    fields = {name: about[name] for name in ("License-Expression", "License") if name in about}
    told = fields.get("License-Expression") or " AND ".join(classifiers) or fields.get("License") or ""
    return {SPDX.get(part, part) for part in re.split(r" (?:AND|OR) ", told) if part}


def refused() -> dict[str, set[str]]:
    """Return the packages that tell no licence, or one that is not allowed."""
    found = {pin.name: licences(pin.name) for pin in packages()}
    return {name: told for name, told in found.items() if not told or told - ALLOWED}


if __name__ == "__main__":
    for pin in packages():
        print(f"{pin.name} {pin.version}: {', '.join(sorted(licences(pin.name))) or 'none'}")  # noqa: T201 - its output
    sys.exit("\n".join(f"{name}: not allowed: {told or 'no licence'}" for name, told in refused().items()) or None)
