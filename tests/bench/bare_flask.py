"""A bare Flask app that reads one document for each request: ``python -m tests.bench.bare_flask PORT``.

It is what ``last_operation`` is compared with, so it runs on the API's own server.
"""

import os
import sys
from typing import Any

from flask import Flask
from pymongo import MongoClient

from broker_api import server
from broker_api.settings.settings import default_processes


class Bare:
    """As many processes serve it as serve the API by default."""

    def __init__(self) -> None:
        client: MongoClient[dict[str, Any]] = MongoClient(os.environ["BENCH_MONGO_URI"], connect=False)
        self.documents = client["bare"]["documents"]
        self.app = Flask("bare")
        self.app.add_url_rule("/health", "health", dict)
        self.app.add_url_rule("/one", "one", self.one)

    def one(self) -> dict[str, str]:
        return {"state": (self.documents.find_one({"_id": "one"}) or {})["state"]}

    def start(self) -> None:
        self.documents.replace_one({"_id": "one"}, {"state": "succeeded"}, upsert=True)

    def forget_process(self, process: int) -> None: ...


if __name__ == "__main__":
    server.serve(Bare(), server.listen("127.0.0.1", int(sys.argv[1])), 0, default_processes())
