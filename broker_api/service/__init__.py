"""What each verb of the OSB API does: checks, one atomic write, one send. Knows nothing of HTTP."""
