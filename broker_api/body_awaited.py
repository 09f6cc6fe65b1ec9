"""What the server asks the app before it reads a body: does the app want it? So a refusal needs no body."""

BODY_AWAITED = "atlas_broker.body_awaited"
"""The name in the WSGI environment of this question. The app answers it with 100, or with its refusal."""
