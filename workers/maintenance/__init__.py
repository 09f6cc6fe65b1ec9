"""``atlas-broker check`` and ``migrate``, which operators run, and the reconciliation, which runs every hour."""
