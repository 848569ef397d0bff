"""Tables on disk: Delta, the archive, and reads without an engine by DuckDB. Only this package opens a table."""
