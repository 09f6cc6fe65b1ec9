"""The images, built from the Dockerfile by buildah, and processes that run in them, without a container engine.

No registry is asked: the base is a small Debian that debootstrap makes, with Debian's Python, and pip gets the packages
of the locks from a folder. A process runs in the root of its image, which it cannot write to, as the user of the image.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import requests

from tests.deploy.files import CHECKOUT, DOCKERFILE, REQUIREMENTS, SECRET_SETTINGS
from tests.dev.processes import Server

IMAGES = ["api", "worker", "emulator"]
PACKAGES_OF_THE_BASE = "python3,python3-venv,python3-pip,ca-certificates"
IN_THE_ROOT = """
set -eu
image_path=$PATH PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 secrets=$2
shift 2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
mount --bind "$secrets" "$root/run/secrets"
mount -o remount,bind,ro "$root"
exec env PATH="$image_path" /usr/sbin/chroot "$@"
"""
"""Run in a mount namespace of its own, so that the kernel takes the mounts away with the process."""


EXEC = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
"""Finds the program on the image's own PATH, as a container engine does."""


def tools() -> None:
    """Check that images can be built and run here; raise RuntimeError with what to install."""
    missing = [name for name in ("buildah", "debootstrap", "unshare", "chroot") if not shutil.which(name)]
    if missing or os.getuid() != 0:
        raise RuntimeError(f"Images are built by root with buildah and debootstrap; missing: {missing or 'root'}.")


class Images:
    """Builds in a folder; the images are in there too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        store = ("--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")
        self._buildah = ("buildah", *store)

    def buildah(self, *words: str | Path) -> str:
        """Run a command of buildah; return what it prints."""
        return run(*self._buildah, *words)

    def build(self) -> None:
        """Build all targets, as the comment in the Dockerfile says."""
        self._make_base()
        self._download()
        configuration = self.folder / "pip.conf"
        configuration.write_text("[global]\nno-index = true\nfind-links = /wheels-here\n")
        offline = [f"{self.wheels}:/wheels-here:ro", f"{configuration}:/etc/pip.conf:ro"]
        for target in IMAGES:
            self.buildah(
                *("bud", "--isolation", "chroot", "--pull-never", "--from", "localhost/base"),
                *("--ignorefile", DOCKERFILE.with_name("Dockerfile.dockerignore"), "-f", DOCKERFILE),
                *(word for volume in offline for word in ("--volume", volume)),
                *("--build-arg", "REVISION=of-a-test", "--target", target, "--tag", f"localhost/{target}", CHECKOUT),
            )

    def _make_base(self) -> None:
        """Make an image like the one that the Dockerfile names: Debian with `python` and `pip`."""
        root = self.folder / "base"
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES_OF_THE_BASE}", "bookworm", root)
        for name in ("python", "pip"):
            (root / "usr" / "local" / "bin" / name).symlink_to(f"/usr/bin/{name}3")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
        container = self.buildah("from", "scratch")
        self.buildah("copy", container, root, "/")
        self.buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        self.buildah("commit", container, "localhost/base")
        shutil.rmtree(root)

    def _download(self) -> None:
        """Get the wheels of the locks, for every Python, since that of the base is older than this one."""
        for lock in ("build", "worker"):
            text = (REQUIREMENTS / f"{lock}.txt").read_text()
            (self.folder / f"{lock}.txt").write_text(re.sub(r" ; .* \\$", r" \\", text, flags=re.MULTILINE))
            pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:")
            run(*pip, "--dest", self.wheels, "-r", self.folder / f"{lock}.txt")

    def image(self, name: str) -> "Image":
        return Image(self, name)


class Image:
    """One image, mounted."""

    def __init__(self, images: Images, name: str) -> None:
        self._images = images
        self.name = name
        self.root = Path(images.buildah("mount", images.buildah("from", "--pull-never", f"localhost/{name}")))
        for folder in ("dev", "proc", "run/secrets"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    @cached_property
    def configuration(self) -> dict[str, object]:
        """User, environment, entry point, command and labels, as a container engine reads them."""
        inspected = json.loads(self._images.buildah("inspect", "--type", "image", f"localhost/{self.name}"))
        found: dict[str, object] = inspected["OCIv1"]["config"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        labels = self.configuration["Labels"]
        assert isinstance(labels, dict)
        return labels

    @property
    def megabytes(self) -> float:
        files = (path.lstat().st_size for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(files) / 1e6

    def command(self, words: Sequence[str], settings: Mapping[str, str], secrets: Path, entry: str = "") -> list[str]:
        """Return the command that runs the image's entry point, or another program of it, with these words."""
        configured, begin = self.configuration, self.configuration["Entrypoint"]
        assert isinstance(configured["Env"], list)
        assert isinstance(begin, list)
        given = [f"{name}={value}" for name, value in settings.items()]
        program = [entry] if entry else begin
        inside = ["--userspec", str(configured["User"]), str(self.root), "/opt/venv/bin/python", "-c", EXEC]
        start = ["/usr/bin/env", "-i", *configured["Env"], *given, "/usr/bin/unshare", "--mount", "/bin/sh", "-c"]
        return [*start, IN_THE_ROOT, "sh", str(self.root), str(secrets), *inside, *program, *words]


def run(*words: str | Path) -> str:
    """Run a command to its end; return what it prints, or raise RuntimeError with what it complains of."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout.strip()


class Process(Server):
    """A process of an image. It gets its secrets as files, as in Kubernetes."""

    def __init__(self, image: Image, words: Sequence[str], settings: Mapping[str, str], health: str) -> None:
        """Create it.

        Args:
            image: The image.
            words: The arguments of the entry point; `{port}` stands for the port.
            settings: Environment variables of the broker.
            health: The path that answers with 200 once the process is ready.
        """
        super().__init__(f"{image.name}-of-an-image")
        self.image, self.words, self.health = image, words, health
        self.given = {"BROKER_METRICS_PORT": str(self.port), **settings}

    def command(self) -> Sequence[str | Path]:
        return self.image.command([word.format(port=self.port) for word in self.words], *self._as_files())

    def answers(self) -> bool:
        return requests.get(f"{self.uri}{self.health}", timeout=2).status_code in (200, 401)

    def run(self, *words: str) -> str:
        """Run another program of the image to its end, with the same settings; return what it prints."""
        return run(*self.image.command(words[1:], *self._as_files(), entry=words[0]))

    def _as_files(self) -> tuple[dict[str, str], Path]:
        """Write the secrets to files; return the other settings with the names of the files, and their folder."""
        folder = self.home / "secrets"
        folder.mkdir(parents=True, exist_ok=True)
        secrets = self.given.keys() & SECRET_SETTINGS - {"MONGODB_ATLAS_PROJECT_ID"}
        for name in secrets:
            (folder / name).write_text(self.given[name])
        files = {f"{name}_FILE": f"/run/secrets/{name}" for name in secrets}
        return {name: value for name, value in self.given.items() if name not in secrets} | files, folder
