"""What the tests of the deployment read: the files of `docker/`, and what the design names."""

from pathlib import Path
from typing import Any

import yaml

from broker_api.settings.settings import SECRETS, Project, Settings
from broker_api.settings.sources import variable_of

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "compose.yaml"
REQUIREMENTS = DOCKER / "requirements"
KUBERNETES = DOCKER / "kubernetes"

Object = dict[str, Any]

SETTINGS = {
    *(
        name
        for field in (*Project.model_fields.values(), *Settings.model_fields.values())
        if (name := variable_of(field))
    ),
    *("BROKER_CONFIG", "BROKER_SECRETS", "BROKER_LOG_LEVEL"),
}
ATLAS_SETTINGS = {name for name in SETTINGS if name.startswith("MONGODB_ATLAS_")}
SECRET_SETTINGS = {*SECRETS, "MONGODB_ATLAS_PROJECT_ID"}
WORKING = {
    "BROKER_MONGO_URI": "mongodb://mongo.example/?replicaSet=rs0",
    "BROKER_REDIS_URL": "redis://redis.example/0",
    "BROKER_USERS": "platform:password",
    "BROKER_ENCRYPTION_KEYS": "A" * 43 + "=",
    "MONGODB_ATLAS_PROJECT_ID": "000000000000000000000001",
    "MONGODB_ATLAS_PUBLIC_API_KEY": "public",
    "MONGODB_ATLAS_PRIVATE_API_KEY": "private",
}
"""Values for what an operator fills in; the service account's two are left empty."""

QUEUES = {"instances", "bindings", "maintenance"}


def objects(path: Path) -> list[Object]:
    """Every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]
