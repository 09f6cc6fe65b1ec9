"""The directory in which several processes count their metrics together, for the API and for workers."""

import tempfile
from collections.abc import Mapping

from broker_api.errors import SettingError

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory; prometheus_client reads it too, when it is imported."""


def check_directory(environ: Mapping[str, str]) -> None:
    """Check the directory, which prometheus_client would only use at the first count, within a request or a job.

    Args:
        environ: The environment variables.

    Raises:
        SettingError: The variable is set, and names no directory in which this process can create files.
    """
    named = environ.get(DIRECTORY)
    if named is None:
        return
    try:
        tempfile.TemporaryFile(dir=named or "/dev/null").close()
    except OSError:
        sentence = f"{DIRECTORY}: must name a directory in which this process can create files"
        raise SettingError(sentence) from None
