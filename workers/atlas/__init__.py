"""The Atlas Admin API v2 on the wire. A leaf: imports nothing of the broker, and neither Celery nor a database."""
