"""The commands with which operators look at the state and change it; they need MongoDB, and neither Atlas nor keys."""
