"""Checks before and after each call to Atlas: lease, circuit breaker, rate limiter."""
