"""What the tests of the deployment read: the files of `docker/`, and what the design names."""

from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "compose.yaml"
REQUIREMENTS = DOCKER / "requirements"
KUBERNETES = DOCKER / "kubernetes"

Object = dict[str, Any]

ATLAS_SETTINGS = {
    "MONGODB_ATLAS_PUBLIC_API_KEY",
    "MONGODB_ATLAS_PRIVATE_API_KEY",
    "MONGODB_ATLAS_CLIENT_ID",
    "MONGODB_ATLAS_CLIENT_SECRET",
    "MONGODB_ATLAS_PROJECT_ID",
    "MONGODB_ATLAS_BASE_URL",
}
SECRET_SETTINGS = (ATLAS_SETTINGS - {"MONGODB_ATLAS_BASE_URL"}) | {
    "BROKER_MONGO_URI",
    "BROKER_REDIS_URL",
    "BROKER_USERS",
    "BROKER_ENCRYPTION_KEYS",
}
SETTINGS = (
    ATLAS_SETTINGS
    | SECRET_SETTINGS
    | {
        "BROKER_SECRETS",
        "BROKER_WORKER_KEYS",
        "BROKER_MONGO_DB",
        "BROKER_MONGO_COLLECTION",
        "BROKER_MONGO_TIMEOUT_MS",
        "BROKER_CONFIG",
        "BROKER_API_PROCESSES",
        "BROKER_SYNC_WAIT_SECONDS",
        "BROKER_SETTLE_SECONDS",
        "BROKER_VERIFY_LOGIN",
        "BROKER_LOG_LEVEL",
        "BROKER_METRICS_PORT",
        "BROKER_FLOWER_URL",
    }
)
WORKING = {
    "BROKER_MONGO_URI": "mongodb://mongo.example/?replicaSet=rs0",
    "BROKER_REDIS_URL": "redis://redis.example/0",
    "BROKER_USERS": "platform:password",
    "BROKER_ENCRYPTION_KEYS": "A" * 43 + "=",
    "MONGODB_ATLAS_PROJECT_ID": "000000000000000000000001",
    "MONGODB_ATLAS_PUBLIC_API_KEY": "public",
    "MONGODB_ATLAS_PRIVATE_API_KEY": "private",
}
"""Values that the broker takes for what somebody has to fill in; the service account's two are left empty."""

QUEUES = {"instances", "bindings", "maintenance"}


def objects(path: Path) -> list[Object]:
    """Every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]
