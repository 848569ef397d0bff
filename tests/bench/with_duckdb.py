"""The same job with DuckDB and delta-rs. ``python with_duckdb.py LANDING OUT``."""

import json
import sys

import duckdb
from deltalake import write_deltalake

landing, out = sys.argv[1:]
duckdb.sql("SET TimeZone = 'UTC'")
STEPS = {
    "bronze": f"SELECT *, click_timestamp::DATE AS click_date, now() AS load_timestamp FROM '{landing}/*.parquet'",
    "silver": "SELECT DISTINCT ON (click_id) * FROM bronze",
    "sessions": """
        WITH marked AS (
            SELECT *, click_timestamp - lag(click_timestamp) OVER w AS pause FROM silver
            WINDOW w AS (PARTITION BY user_id ORDER BY click_timestamp, click_id)
        ), numbered AS (
            SELECT *, count_if(pause IS NULL OR pause > INTERVAL 30 MINUTE) OVER (
                PARTITION BY user_id ORDER BY click_timestamp, click_id) AS n FROM marked
        )
        SELECT user_id, min(click_timestamp) AS session_start_time, max(click_timestamp) AS session_end_time,
               count(*) AS click_count, avg(response_time_ms) AS avg_response_time_ms,
               count_if(status_code >= 400) AS error_count, min(click_timestamp)::DATE AS session_date
        FROM numbered GROUP BY user_id, n
    """,
    "hourly": """
        SELECT date_trunc('hour', click_timestamp) AS hour, count(*) AS total_clicks,
               count(DISTINCT user_id) AS unique_users, quantile_cont(response_time_ms, 0.95) AS p95_response_time_ms,
               count_if(status_code >= 400) AS error_count
        FROM silver GROUP BY 1
    """,
    "daily": """
        SELECT session_date, count(*) AS total_sessions, count(DISTINCT user_id) AS total_users,
               avg((click_count = 1)::INT) AS bounce_rate
        FROM sessions GROUP BY 1
    """,
}
DAYS = {"bronze": "click_date", "silver": "click_date", "sessions": "session_date"}
for name, sql in STEPS.items():
    duckdb.sql(f"CREATE TABLE {name} AS {sql}")
    batches = duckdb.sql(f"FROM {name}").to_arrow_reader(100_000)
    write_deltalake(f"{out}/{name}", batches, mode="overwrite", partition_by=DAYS.get(name))
[(clicks, errors, hours)] = duckdb.sql("SELECT sum(total_clicks), sum(error_count), count(*) FROM hourly").fetchall()
[(sessions,)] = duckdb.sql("SELECT count(*) FROM sessions").fetchall()
print(json.dumps({"clicks": int(clicks), "sessions": sessions, "errors": int(errors), "hours": hours}))
