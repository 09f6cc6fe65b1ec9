"""What operators run, and what runs by itself: ``atlas-broker check`` and the reconciliation."""
