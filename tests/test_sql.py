# ruff: noqa: E501 - cases stand in one line
"""Spark SQL means the same here as in Spark: every signature on a grid of values, and queries of an analyst."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import grid
import pyarrow as pa
import pytest
import sqlglot

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import dialects, functions

ROUNDS = int(os.environ.get("LAKEHOUSE_TEST_ROUNDS", "0"))
"""How often each signature is tried with other values; 0: a share of them once, as the suite is long."""
QUERIES = (Path(__file__).parent / "analyst.sql").read_text().splitlines()

TABLES = {
    "users": "SELECT * FROM VALUES "
    "(1L, 'ann', 'a@x.org', 31, 'DE', 'pro', array('a', 'bb'), map('lang', 'de', 'x', '1'), named_struct('city', 'Bonn', 'zip', 53111)), "
    "(2L, 'bob', 'bob@y.com', 17, 'US', 'free', array('b'), map('lang', 'en'), named_struct('city', 'Rome', 'zip', NULL)), "
    "(3L, 'cem', 'c@z.org', NULL, 'DE', NULL, array(), map(), NULL), (4L, NULL, NULL, 70, NULL, 'free', NULL, NULL, NULL), "
    "(5L, 'dee', 'dee@x.org', 45, 'FR', 'pro', array('a', NULL, 'c'), map('lang', NULL), named_struct('city', 'Nice', 'zip', 6000)) "
    "AS t(id, name, email, age, country, plan, tags, props, address)",
    "events": "SELECT user_id, kind, CAST(ts AS TIMESTAMP) AS ts, amount, payload FROM VALUES "
    '(1L, \'buy\', \'2026-01-01 10:00:00\', 12.5D, \'{"page":"home","n":1,"device":{"os":"ios"},"items":[1,2]}\'), '
    "(1L, 'view', '2026-01-01 10:05:00', NULL, '{\"page\":\"cart\"}'), (2L, 'buy', '2026-01-02 23:59:59.5', 30D, 'broken'), "
    "(2L, 'view', '2026-01-05 00:00:00', 1.25D, NULL), (1L, 'buy', '2026-02-01 08:00:00', 7.75D, '{\"page\":null,\"n\":3}'), "
    "(NULL, 'view', '2026-02-14 12:00:00', 3D, '{\"items\":[]}'), (9L, 'refund', '2026-03-29 01:30:00', -5D, '{\"n\":\"x\"}') "
    "AS t(user_id, kind, ts, amount, payload)",
    "items": "SELECT * FROM VALUES ('p', CAST(9.99 AS DECIMAL(10,2)), 3), ('q', CAST(100 AS DECIMAL(10,2)), 1), ('r', CAST(0.01 AS DECIMAL(10,2)), 7), ('s', NULL, 2) AS t(sku, price, qty)",
}


@pytest.fixture(scope="module")
def connection_with_tables() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    dialects.prepare(connection)
    for name, sql in TABLES.items():
        connection.register(name, table_of(connection, sql, {}))
    yield connection
    connection.close()


def table_of(connection: duckdb.DuckDBPyConnection, sql: str, tables: dict) -> pa.Table:
    (tree,) = sqlglot.parse(sql, dialect=dialects.Spark)
    text, names = dialects.translated(tree, tables)
    return connection.sql(text).to_arrow_table().rename_columns(names)


@pytest.fixture(scope="module")
def spark_with_tables(real_spark):
    """A Spark session with the same tables."""
    for name, text in TABLES.items():
        real_spark.sql(text).createOrReplaceTempView(name)
    return real_spark


@pytest.mark.parametrize("sql", QUERIES)
def test_analyst_queries_return_the_same_as_spark(connection_with_tables, spark_with_tables, sql):
    """Values, order and the names of the columns."""
    expected = spark_with_tables.sql(sql).toArrow()
    actual = table_of(
        connection_with_tables, sql, {name: dialects.schema(connection_with_tables, name) for name in TABLES}
    )
    assert actual.column_names == expected.column_names
    assert len(actual) == len(expected)
    for row, their_row in zip(grid.rows_of(actual), grid.rows_of(expected), strict=True):
        assert grid.same(row, their_row), (row, their_row)


def cases() -> list[tuple[str, list[list[str]], bool]]:
    """(expression, rows, whether it is an aggregate)."""
    cases_listed = [(text, rows, name in functions.AGGREGATES) for name, text, rows in grid.calls(max(1, ROUNDS))]
    cases_listed += [(text, rows, False) for _, text, rows in grid.operators(max(1, ROUNDS), grid.OPERATORS)]
    cases_listed += [(text, rows, True) for _, text, rows in grid.operators(max(1, ROUNDS), grid.AGGREGATES)]
    return cases_listed if ROUNDS else cases_listed[::6]


def test_every_signature_returns_the_same_as_spark(connection_with_tables, real_spark):
    wrong, count = [], 0
    for text, rows, aggregate in cases():
        actual = grid.by_us(connection_with_tables, text, rows, aggregate)
        answered = [place for place, answer in enumerate(actual) if not isinstance(answer, Exception)]
        count += len(actual)
        if not answered:
            continue
        spark_rows = grid.by_spark(
            real_spark, text, rows if aggregate else [rows[place] for place in answered], aggregate
        )
        wrong += [
            (text, rows if aggregate else rows[place], actual[place], expected)
            for place, expected in zip(answered, spark_rows, strict=True)
            if grid.wrong(actual[place], expected)
        ]
    print(f"{count} rows, {len(wrong)} wrong")
    assert not wrong, wrong[:20]


@pytest.mark.parametrize("sql", ["SELECT a0 FROM VALUES (1) AS t(a0) ORDER BY nosuch", "SELECT ST_Point(1, 2)", "SELECT version()",
                                 "SELECT MAX(x) KEEP FROM t", "SELECT a:b FROM VALUES ('{}') AS t(a)", "SELECT X'1' DIV 2", "SELECT uuid()",
                                 "SELECT sum(a) AS a FROM VALUES (1) AS t(a) ORDER BY max(a)"])  # fmt: skip
def test_unknown_sql_is_rejected(connection_with_tables, sql):
    with pytest.raises((ConfigError, sqlglot.errors.SqlglotError)):
        table_of(connection_with_tables, sql, {})
