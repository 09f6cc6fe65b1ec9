"""``atlas-broker check``, which operators run, and the reconciliation, which runs every hour."""
