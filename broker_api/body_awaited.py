"""How the server asks the app, before a body arrives, whether to read it: so a refusal needs no body."""

BODY_AWAITED = "atlas_broker.body_awaited"
"""The key of the question in the WSGI environment. The app answers 100 to read the body, or refuses at once."""
