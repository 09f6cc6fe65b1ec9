"""Sending jobs to the workers by name, through Redis."""
