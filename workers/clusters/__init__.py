"""What the broker knows of the clusters: whether a change is applied, how to connect, how many users fit."""
