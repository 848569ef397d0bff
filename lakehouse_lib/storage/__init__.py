"""Tables on disk: Delta, the archive, and DuckDB reads without an engine. Only this package opens a table."""
