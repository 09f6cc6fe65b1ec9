"""What is asked before each call to Atlas and learns from its answer: lease, circuit breaker, rate limiter."""
