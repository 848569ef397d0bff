"""Spark SQL on DuckDB: read, held against what is known to mean the same, written anew. It knows nothing of
tables or lakehouses."""
