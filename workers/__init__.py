"""The Celery workers of Atlas Broker: ``celery -A workers worker``."""

from workers.app import app

__all__ = ["app"]
