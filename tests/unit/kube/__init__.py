"""The API-server client against a scripted API server on the loopback."""
