"""Clicks as Parquet, two weeks of them, one in a hundred delivered twice; and what is right for them."""

from __future__ import annotations

from pathlib import Path

import duckdb

GAP_MINUTES = 30
FILES = 14

_CLICKS = """
    SELECT 'c' || md5(i::VARCHAR) AS click_id, 'user_' || (hash(i // 9 * 7) % {users}) AS user_id,
           ['home', 'search', 'product', 'cart', 'checkout'][1 + i % 5] AS page_name,
           ['view', 'click', 'scroll'][1 + i % 3] AS action, 'e' || i % 40 AS element,
           'https://example.org/' || i % 97 AS referrer, 'agent ' || i % 12 AS user_agent,
           (i * 7919 % 100003) / 100.0 AS response_time_ms, CASE WHEN i % 50 = 0 THEN 500 ELSE 200 END AS status_code,
           make_timestamp({begin} + (i % 9) * 40000000 + (i // 9) * 9 * {step}) AS click_timestamp
    FROM range({first}, {last}) r(i)
"""


def write(folder: Path, rows: int, more: bool = False) -> None:
    """So many clicks in 14 files; or those of one more file, a hundredth of them, of the last day."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, step = 1_770_000_000_000_000, 14 * 86_400_000_000 // rows
    ranges = [(rows, rows + rows // 100)] if more else [
        (rows * n // FILES, rows * (n + 1) // FILES) for n in range(FILES)
    ]  # fmt: skip
    for first, last in ranges:
        days = begin if not more else begin - rows // 100 * step
        sql = _CLICKS.format(users=max(rows // 20, 1), begin=days, step=step, first=first, last=last)
        twice = f"SELECT * FROM ({sql}) UNION ALL SELECT * FROM ({sql}) WHERE hash(click_id) % 100 = 0"
        duckdb.sql(twice).write_parquet(str(folder / f"{first:012d}.parquet"))


def right(folder: Path) -> dict[str, float]:
    """Clicks, sessions, and sums over the hours, of all files."""
    [found] = duckdb.sql(f"""
        WITH clicks AS (SELECT DISTINCT ON (click_id) * FROM '{folder}/*.parquet'),
        marked AS (SELECT *, click_timestamp - lag(click_timestamp) OVER w AS pause FROM clicks
                   WINDOW w AS (PARTITION BY user_id ORDER BY click_timestamp, click_id))
        SELECT count(*), count_if(pause IS NULL OR pause > INTERVAL {GAP_MINUTES} MINUTE),
               count_if(status_code >= 400), count(DISTINCT date_trunc('hour', click_timestamp)) FROM marked
    """).fetchall()
    return dict(zip(("clicks", "sessions", "errors", "hours"), map(int, found), strict=True))
