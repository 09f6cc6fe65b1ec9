"""Variables of Celery and Flower that mean nothing to the broker, each with a value that must not be told."""

from broker_api.settings.ignored_variables import CELERY_VARIABLES

WRONG = "redis://:hidden-secret@127.0.0.1:1/9"
FOREIGN = {
    **dict.fromkeys(CELERY_VARIABLES, WRONG),
    "LOADER": "hidden-secret",
    "CELERY_LOADER": "hidden-secret",
    "CONFIG_MODULE": "hidden-secret",
    "CELERY_CONFIG": "hidden-secret",
    "CELERY_CONFIG_MODULE": "hidden-secret",
}
OPTIONS = {
    "CELERY_WORKER_POOL": "solo",
    "CELERY_WORKER_QUEUES": "hidden-secret",
    "CELERY_WORKER_CONCURRENCY": "hidden-secret",
    "CELERY_WORKER_EXCLUDE_QUEUES": "bindings",
}
FLOWERS = {
    "FLOWER_BASIC_AUTH": "somebody:hidden-secret",
    "FLOWER_READ_ONLY": "hidden-secret",
    "FLOWER_AUTH": "hidden-secret",
    "FLOWER_UNAUTHENTICATED_API": "true",
    "FLOWER_BROKER_API": "http://hidden-secret",
    "FLOWER_CONF": "/hidden-secret.py",
}
