"""A bare Flask app that reads one document for each request: ``python -m tests.bench.bare_flask PORT``.

It is what ``last_operation`` is compared with, so it runs on the API's own server.
"""

import os
import sys
from typing import Any

from flask import Flask
from pymongo import MongoClient

from broker_api import server


def make_app() -> Flask:
    app = Flask("bare")
    client: MongoClient[dict[str, Any]] = MongoClient(os.environ["BENCH_MONGO_URI"])
    documents = client["bare"]["documents"]
    documents.replace_one({"_id": "one"}, {"state": "succeeded"}, upsert=True)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {}

    @app.get("/one")
    def one() -> dict[str, str]:
        return {"state": (documents.find_one({"_id": "one"}) or {})["state"]}

    return app


if __name__ == "__main__":
    server.serve(make_app, server.listen("127.0.0.1", int(sys.argv[1])), 0)
