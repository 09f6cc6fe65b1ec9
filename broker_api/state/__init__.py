"""The state that API and workers share: records, the MongoDB store, claims, encryption."""
