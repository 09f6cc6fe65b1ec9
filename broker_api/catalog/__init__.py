"""Services and plans, and what parameters they take."""
