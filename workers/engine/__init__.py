"""Runs operations of any kind: claims, leases, steps, retries, the sweeper. Knows nothing of Atlas."""
