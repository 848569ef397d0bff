"""What a table is: declarations, checks, the tables under ``ops``. Nothing here reads a file or starts an
engine."""
