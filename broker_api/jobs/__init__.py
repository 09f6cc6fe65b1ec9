"""Jobs: their names and queues, sent to the workers through Redis."""
