"""Run atlasbroker 2.0.0: ``python old_broker.py PORT SECRETS ATLAS_URL``, by the Python of its own environment."""

import collections
import collections.abc
import sys

collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]  # where its atlasapi looks for it

from atlasapi.settings import Settings  # noqa: E402 - after the repair
from atlasbroker.broker import Broker  # noqa: E402 - after the repair
from atlasbroker.config import Config  # noqa: E402 - after the repair

port, secrets_file, Settings.BASE_URL = sys.argv[1:]
secrets = Config.load_json(secrets_file)
Broker(Config(secrets["atlas"], secrets["mongo"])).app.run("127.0.0.1", int(port), threaded=True)
