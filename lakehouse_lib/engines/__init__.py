"""Spark: sessions, the embedded server, what it needs to start. Nothing here knows a table."""
