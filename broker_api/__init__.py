"""The front end of Atlas Broker: the OSB API, and the state that it shares with the workers."""
