"""What a table is: declarations, the registry, checks, and the tables under ``ops``. Nothing here reads a file or
starts an engine."""
