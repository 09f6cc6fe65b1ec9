"""The app for any WSGI server, ``broker_api.wsgi:app``; the only module that reads the environment when imported."""

import os
import sys

from broker_api import logs
from broker_api.broker import Broker
from broker_api.errors import SettingError
from broker_api.settings import ignored_variables

_BOOT_ERROR = 3
"""gunicorn stops when a worker ends with this code; after another one it starts the worker again, without end."""

try:
    logs.configure()
    ignored_variables.warn(ignored_variables.ignored(os.environ))
    broker = Broker()
    broker.check_encryption_keys()
    app = broker.app
except SettingError as error:
    print(f"atlas-broker: {error}", file=sys.stderr)  # noqa: T201 - one line for the operator
    sys.exit(_BOOT_ERROR)
