"""For any WSGI server: ``broker_api.wsgi:app``. The one module that reads the environment when imported."""

import os
import sys

from broker_api import logs
from broker_api.broker import Broker
from broker_api.errors import SettingError
from broker_api.settings import foreign_variables

_BOOT_ERROR = 3
"""gunicorn ends with such a worker; one that ends with another code is started again, for ever."""

logs.configure()
foreign_variables.warn(foreign_variables.ignored(os.environ))
try:
    broker = Broker()
    broker.check_encryption_keys()
    app = broker.app
except SettingError as error:
    print(f"atlas-broker: {error}", file=sys.stderr)  # noqa: T201 - one line for the operator
    sys.exit(_BOOT_ERROR)
