"""The columns of the tables under ``ops/``, in which the lakehouse records its own operation."""

from __future__ import annotations

import pyarrow as pa

COUNTS = ("records_read", "accepted", "updated", "duplicate", "quarantined", "unchanged")
"""What happened to the records that a table read; the first is the sum of the others."""

_TYPES = {"string": pa.string(), "strings": pa.list_(pa.string()), "bigint": pa.int64(), "double": pa.float64(),
          "boolean": pa.bool_(), "timestamp": pa.timestamp("us", "UTC")}  # fmt: skip


def _schema(declared: str) -> pa.Schema:
    """Return the schema of columns declared as ``name type, name type, …``."""
    return pa.schema([(name, _TYPES[kind]) for name, kind in (column.split() for column in declared.split(","))])


SCHEMAS = {
    "landing_files": _schema("""
        feed string, path string, state string, reason string, size bigint, modified timestamp, digest string,
        records bigint, kind string, head string, run_id string, table_id string, version bigint,
        first_seen timestamp"""),
    "runs": _schema("""
        run_id string, target string, state string, message string, rows bigint, version bigint, seconds double,
        started_at timestamp"""),
    "ledger": _schema(f"""
        run_id string, target string, table_id string, version bigint, {", ".join(f"{name} bigint" for name in COUNTS)},
        reasons string, recorded_at timestamp, rows bigint, operation string"""),
    "fingerprints": _schema("id bigint, kind string, text string, recorded_at timestamp"),
    "lineage": _schema("""
        run_id string, source string, source_version bigint, target string, target_version bigint, operation string,
        job string, notebook string, rows bigint, outcome string, started_at timestamp, recorded_at timestamp,
        columns string, fingerprint string"""),
    "quality_results": _schema("""
        run_id string, table_name string, layer string, check_name string, kind string, severity string, scope string,
        passed boolean, measured double, expected string, unit string, rows bigint, failing_rows bigint,
        failing_keys string, message string, checked_at timestamp, seconds double, table_id string,
        table_version bigint, definition string, parts string"""),
    "catalog": _schema("""
        name string, layer string, tier string, description string, grain string, key strings, columns string,
        owner string, tags strings, sources strings, consumers strings, made_by string, notebook string,
        partition_by string, cluster_by strings, freshness_hours bigint, retention_days bigint, path string,
        version bigint, rows bigint, files bigint, bytes bigint, updated_at timestamp, state string, verdict string,
        sample_query string, fingerprint string, rules string, rules_since timestamp, made_with string"""),
    "catalog_edits": _schema("""
        table_name string, owner string, add_tags strings, remove_tags strings, edited_at timestamp"""),
    "health_reports": _schema("generated_at timestamp, run_id string, verdict string, findings string, rows string"),
}
"""By table name. A table is created when its first row is written."""
