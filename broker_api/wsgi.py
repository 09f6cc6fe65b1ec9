"""For any WSGI server: ``broker_api.wsgi:app``. The one module that reads the environment when imported."""

import sys

from broker_api import logs
from broker_api.broker import Broker
from broker_api.errors import SettingError

logs.configure()
try:
    app = Broker().app
except SettingError as error:
    sys.exit(f"atlas-broker: {error}")
