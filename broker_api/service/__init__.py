"""The verbs of the OSB API without HTTP: checks, one atomic write, one message to the workers."""
