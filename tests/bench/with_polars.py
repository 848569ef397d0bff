"""The same job with polars and delta-rs. ``python with_polars.py LANDING OUT``."""

import json
import sys
from datetime import UTC, datetime, timedelta

import polars as pl

landing, out = sys.argv[1:]


def save(frame: pl.DataFrame, name: str, by: str | None = None) -> pl.DataFrame:
    frame.write_delta(f"{out}/{name}", mode="overwrite", delta_write_options={"partition_by": [by]} if by else {})
    return frame


at, now = pl.col("click_timestamp"), datetime.now(UTC)
clicks = pl.read_parquet(f"{landing}/*.parquet").with_columns(at.dt.date().alias("click_date"))
bronze = save(clicks.with_columns(pl.lit(now).alias("load_timestamp")), "bronze", "click_date")
silver = save(bronze.unique("click_id"), "silver", "click_date").sort("user_id", "click_timestamp", "click_id")
pause = at - at.shift().over("user_id")
numbered = silver.with_columns((pause.is_null() | (pause > timedelta(minutes=30))).cum_sum().alias("_n"))
sessions = save(
    numbered.group_by("user_id", "_n").agg(
        at.min().alias("session_start_time"), at.max().alias("session_end_time"), pl.len().alias("click_count"),
        pl.col("response_time_ms").mean().alias("avg_response_time_ms"),
        (pl.col("status_code") >= 400).sum().alias("error_count"),
    ).with_columns(pl.col("session_start_time").dt.date().alias("session_date")).drop("_n"),
    "sessions", "session_date",
)  # fmt: skip
hourly = save(
    silver.group_by(at.dt.truncate("1h").alias("hour")).agg(
        pl.len().alias("total_clicks"), pl.col("user_id").n_unique().alias("unique_users"),
        pl.col("response_time_ms").quantile(0.95, "linear").alias("p95_response_time_ms"),
        (pl.col("status_code") >= 400).sum().alias("error_count"),
    ),
    "hourly",
)  # fmt: skip
save(
    sessions.group_by("session_date").agg(
        pl.len().alias("total_sessions"), pl.col("user_id").n_unique().alias("total_users"),
        (pl.col("click_count") == 1).mean().alias("bounce_rate"),
    ),
    "daily",
)  # fmt: skip
print(json.dumps({"clicks": int(hourly["total_clicks"].sum()), "sessions": len(sessions),
                  "errors": int(hourly["error_count"].sum()), "hours": len(hourly)}))  # fmt: skip
