"""Settings: read once at start, checked, and passed in."""
