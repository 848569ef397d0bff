"""Spark SQL on DuckDB: parsed, checked against what is known to mean the same in both, and generated again. This
package knows nothing about the lakehouse or its tables."""
