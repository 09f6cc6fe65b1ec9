"""The broker is broken in every way, and must lose nothing."""

import pytest

# Stories stand outside test modules; this makes their asserts say what they compared, as those of tests do.
pytest.register_assert_rewrite(*(f"tests.chaos.{name}" for name in ("chaos", "books", "points", "scenarios", "slow")))
