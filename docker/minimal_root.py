"""Collect the files that Python needs to run, and no others, for images without a shell and without a package manager.

    python minimal_root.py TARGET VENV

TARGET gets the interpreter that runs this, its standard library, the shared libraries that these and VENV link to,
certificates, time zones, an empty /tmp, and the user of the images. For scanners of vulnerabilities and for the
licences it also gets the entries and the copyright files of Debian's packages that own these files.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

USER = "atlas-broker:x:10001:10001:Atlas Broker:/tmp:/sbin/nologin\n"
GROUP = "atlas-broker:x:10001:\n"
UNUSED_MODULES = shutil.ignore_patterns(
    *("__pycache__", "site-packages", "dist-packages", "config-*", "test", "tests", "ensurepip", "idlelib", "lib2to3"),
    *("tkinter", "turtle*", "_tkinter*", "readline*", "_curses*", "_dbm*", "_gdbm*", "nis.*"),
)
FILES_OF_DEBIAN = ("etc/ld.so.cache", "etc/nsswitch.conf", "etc/os-release", "usr/lib/os-release")
FOLDERS_OF_DEBIAN = ("etc/ssl/certs", "usr/lib/ssl", "usr/share/zoneinfo")
PACKAGES_OF_FOLDERS = ("ca-certificates", "tzdata")
DPKG = Path("/var/lib/dpkg")


def fill(target: Path, venv: Path) -> None:
    """Copy everything that is needed below the target."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(standard_library, target / standard_library.relative_to("/"), ignore=UNUSED_MODULES)
    compileall.compile_dir(
        target / standard_library.relative_to("/"),
        quiet=1,
        stripdir=str(target),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for link in ("bin", "lib", "lib64", "sbin"):
        if Path("/", link).is_symlink():
            (target / link).symlink_to(Path("/", link).readlink())
    for name in FOLDERS_OF_DEBIAN:
        shutil.copytree(Path("/", name), target / name, symlinks=name != "etc/ssl/certs")
    interpreter = venv / "bin" / "python"
    programs = [interpreter, *venv.rglob("*.so*"), *(target / standard_library.relative_to("/")).rglob("*.so*")]
    libraries = set().union(*map(linked, programs))
    for path in [interpreter.readlink(), *libraries, *(Path("/", name) for name in FILES_OF_DEBIAN)]:
        copy(path, target)
    record_packages({path.resolve() for path in [interpreter, *libraries]}, target)
    (target / "tmp").mkdir()
    (target / "tmp").chmod(0o1777)
    (target / "app").mkdir()
    (target / "etc" / "passwd").write_text(USER)
    (target / "etc" / "group").write_text(GROUP)


def linked(program: Path) -> set[Path]:
    """Return the shared libraries outside the virtual environment that a program or a library links to."""
    listed = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True, check=False).stdout
    return {Path(name) for name in re.findall(r"(/(?:usr/)?(?:local/)?lib\S+)(?= \(0x)", listed)}


def copy(path: Path, target: Path) -> None:
    """Copy a file to the same place below the target; a link together with the file that it leads to."""
    path = path.parent.resolve() / path.name
    copied = target / path.relative_to("/")
    copied.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        copied.unlink(missing_ok=True)
        copied.symlink_to(path.readlink())
        copy(path.parent / path.readlink(), target)
    else:
        shutil.copy2(path, copied)


def record_packages(files: set[Path], target: Path) -> None:
    """Write the status and the copyright of each Debian package that owns one of these files."""
    stanzas = {
        name: stanza
        for stanza in (DPKG / "status").read_text().split("\n\n")
        for name in re.findall(r"^Package: (\S+)", stanza)
    }
    folder = target / "var" / "lib" / "dpkg" / "status.d"
    folder.mkdir(parents=True)
    for listing in (DPKG / "info").glob("*.list"):
        name = listing.stem.partition(":")[0]
        if name not in PACKAGES_OF_FOLDERS and files.isdisjoint(owned(listing)):
            continue
        (folder / name).write_text(stanzas[name] + "\n")
        documents = Path("usr/share/doc", name)
        if Path("/", documents, "copyright").exists():
            (target / documents).mkdir(parents=True)
            shutil.copy(Path("/", documents, "copyright"), target / documents)


def owned(listing: Path) -> Iterator[Path]:
    """Yield the libraries and programs that a package has installed."""
    for line in listing.read_text().splitlines():
        if ".so" in line or "bin/" in line:
            yield Path(line).resolve()


if __name__ == "__main__":
    os.umask(0o022)
    fill(Path(sys.argv[1]), Path(sys.argv[2]))
