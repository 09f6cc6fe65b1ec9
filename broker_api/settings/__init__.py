"""What is set from outside: read once, checked, passed in."""
