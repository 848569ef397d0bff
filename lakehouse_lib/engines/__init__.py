"""Engines: Spark sessions, the server and its dependencies. Nothing here knows about tables."""
