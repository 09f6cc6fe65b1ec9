"""Facts about clusters: whether a change is applied, connection strings, databases, the limit of users."""
