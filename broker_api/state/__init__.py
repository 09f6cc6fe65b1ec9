"""The state that API and workers share: records in MongoDB, claims of operations, encryption."""
