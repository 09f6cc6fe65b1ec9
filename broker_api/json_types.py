"""JSON as Python holds it."""

from typing import Any

JsonObject = dict[str, Any]
"""A JSON object whose keys a platform, an operator or Atlas has chosen."""
