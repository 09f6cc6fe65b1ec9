"""The Atlas Admin API v2 on the wire. It imports nothing of the broker, no Celery and no database."""
