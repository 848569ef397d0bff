# ruff: noqa: E501 - SQL in lines of its own
"""Spark functions as SQL macros, for the signatures, where DuckDB's function of a similar name behaves differently."""

from __future__ import annotations

import re

_ALL = r"""
CREATE MACRO spark_start(s, p) AS CASE WHEN p > 0 THEN p::BIGINT - 1 WHEN p < 0 THEN length(s) + p::BIGINT ELSE 0 END;
CREATE MACRO spark_natural(n) AS CASE WHEN n > 100000000 THEN error('A string or array of length ' || n || ' is too long') WHEN n < 0 THEN 0 ELSE n END;
CREATE MACRO spark_substring(s, p, n) AS CASE WHEN s IS NULL OR p IS NULL OR n IS NULL THEN NULL ELSE substring(s, greatest(spark_start(s, p), 0) + 1,
    greatest(spark_start(s, p) + n::BIGINT - greatest(spark_start(s, p), 0), 0)) END;
CREATE MACRO spark_lpad(s, n, p) AS CASE WHEN s IS NULL OR n IS NULL OR p IS NULL THEN NULL WHEN abs(n::BIGINT) > 100000000
    THEN error('A string of length ' || n || ' is too long') WHEN n <= 0 THEN '' WHEN p = '' THEN left(s, n) ELSE lpad(s, n, p) END;
CREATE MACRO spark_rpad(s, n, p) AS CASE WHEN s IS NULL OR n IS NULL OR p IS NULL THEN NULL WHEN abs(n::BIGINT) > 100000000
    THEN error('A string of length ' || n || ' is too long') WHEN n <= 0 THEN '' WHEN p = '' THEN left(s, n) ELSE rpad(s, n, p) END;
CREATE MACRO spark_locate(x, s, p) AS CASE WHEN p IS NULL THEN 0 WHEN x IS NULL OR s IS NULL THEN NULL WHEN p < 1 THEN 0
    WHEN x = '' THEN CASE WHEN p <= length(s) + 1 THEN p ELSE 0 END WHEN instr(substring(s, p), x) = 0 THEN 0
    ELSE CAST(instr(substring(s, p), x) + p - 1 AS INTEGER) END;
CREATE MACRO spark_replace(s, a, b) AS CASE WHEN a = '' AND b IS NOT NULL THEN s ELSE replace(s, a, b) END;
CREATE MACRO spark_overlay(s, r, p, n) AS CASE WHEN n IS NULL THEN NULL ELSE spark_substring(s, 1, p - 1) || r ||
    spark_substring(s, p + CASE WHEN n >= 0 THEN n ELSE length(r)::INTEGER END, 2147483647) END;
CREATE MACRO spark_split_part(s, d, n) AS CASE WHEN n = 0 THEN error('split_part counts parts from 1')
    WHEN s IS NULL OR d IS NULL OR n IS NULL THEN NULL
    WHEN d = '' THEN CASE WHEN abs(n) = 1 THEN s ELSE '' END ELSE coalesce(string_split(s, d)[n], '') END;
CREATE MACRO spark_has(x, e) AS len(list_filter(x, lambda f: f IS NOT DISTINCT FROM e)) > 0;
CREATE MACRO spark_distinct(x) AS list_filter(x, lambda e, i: NOT spark_has(x[1:i - 1], e));
CREATE MACRO spark_join(x, s) AS CASE WHEN x IS NOT NULL AND s IS NOT NULL
    THEN CASE WHEN len(x) = 0 THEN '' ELSE list_reduce(x, lambda a, b: a || s || b) END END;
CREATE MACRO spark_slice(x, i, n) AS CASE WHEN i = 0 THEN error('Indexes begin at 1')
    WHEN n < 0 THEN error('The length of a slice is negative')
    WHEN x IS NULL OR i IS NULL OR n IS NULL THEN NULL
    WHEN n = 0 OR -i > len(x) OR i > len(x) THEN x[1:0] WHEN i > 0 THEN x[i:i::BIGINT + n - 1]
    ELSE x[len(x) + i + 1:len(x) + i::BIGINT + n] END;
CREATE MACRO spark_element(x, i) AS CASE WHEN i = 0 OR abs(i::BIGINT) > len(x)
    THEN error('The index ' || i || ' is outside of an array of ' || len(x)) ELSE x[i] END;
CREATE MACRO spark_item(x, i) AS CASE WHEN i < 0 OR i >= len(x)
    THEN error('The index ' || i || ' is outside of an array of ' || len(x)) ELSE x[i + 1] END;
CREATE MACRO spark_sequence(a, b, s) AS CASE WHEN a IS NULL OR b IS NULL OR s IS NULL THEN NULL
    WHEN a = b THEN [a::BIGINT] WHEN s = 0 OR (s > 0) <> (b > a)
    THEN error('A sequence from ' || a || ' does not reach ' || b)
    WHEN abs((b::HUGEINT - a::HUGEINT) // s) > 100000000 THEN error('A sequence from ' || a || ' to ' || b || ' is too long') ELSE generate_series(a::BIGINT, b::BIGINT, s::BIGINT) END;
CREATE MACRO spark_shiftleft(a, n) AS CAST(CASE WHEN ((a::BIGINT & 4294967295) * (1::BIGINT << (n & 31))) & 4294967295 >= 2147483648
    THEN (((a::BIGINT & 4294967295)::HUGEINT * (1::BIGINT << (n & 31))) & 4294967295) - 4294967296
    ELSE ((a::BIGINT & 4294967295)::HUGEINT * (1::BIGINT << (n & 31))) & 4294967295 END AS INTEGER);
CREATE MACRO spark_width_bucket(x, a, b, n) AS CASE
    WHEN n IS NULL OR a IS NULL OR b IS NULL OR x IS NULL OR n <= 0 OR a = b OR isnan(x) OR NOT isfinite(a) OR NOT isfinite(b) OR n = 9223372036854775807 THEN NULL
    WHEN a < b THEN CASE WHEN x < a THEN 0 WHEN x >= b THEN n + 1 ELSE CAST(trunc(n * (x - a) / (b - a)) AS BIGINT) + 1 END
    ELSE CASE WHEN x > a THEN 0 WHEN x <= b THEN n + 1 ELSE CAST(trunc(n * (a - x) / (a - b)) AS BIGINT) + 1 END END;
CREATE MACRO spark_nonzero(x) AS CASE WHEN x = 0 THEN error('Division by zero; divide by nullif(…, 0)') ELSE x END;
CREATE MACRO spark_must(x, s, f) AS CASE WHEN x IS NULL AND s IS NOT NULL AND f IS NOT NULL
    THEN error(s || ' does not have the format ' || f) ELSE x END;
CREATE MACRO spark_to_map(s, a, b) AS map_from_entries(list_transform(spark_split(s, a, -1), lambda e:
    struct_pack(key := spark_split(e, b, 2)[1], value := spark_split(e, b, 2)[2])));
CREATE MACRO spark_nth(x, p) AS CASE WHEN isnan(x[len(x)]::DOUBLE) THEN error('A percentile of values with NaN is not supported')
    WHEN typeof(x[1]) = 'BIGINT' AND greatest(abs(x[1]::DOUBLE), abs(x[len(x)]::DOUBLE)) > 9007199254740992
    THEN error('A percentile of numbers above 2^53 is not supported') ELSE x[greatest(ceil(p * len(x))::BIGINT, 1)] END;
CREATE MACRO spark_nths(x, p) AS CASE WHEN len(x) > 0 THEN list_transform(p, lambda q: spark_nth(x, q)) END;
CREATE MACRO spark_mean(x) AS list_sum(x) / len(x);
CREATE MACRO spark_moment(x, m, k) AS list_sum(list_transform(x, lambda e: pow(e - m, k)));
CREATE MACRO spark_present(x) AS list_filter(x, lambda e: e IS NOT NULL);
CREATE MACRO spark_skewness(y) AS list_transform([spark_present(y)], lambda x: list_transform([spark_mean(x)],
    lambda m: CASE WHEN spark_moment(x, m, 2) = 0 THEN NULL
    ELSE sqrt(len(x)) * spark_moment(x, m, 3) / pow(spark_moment(x, m, 2), 1.5) END)[1])[1];
CREATE MACRO spark_kurtosis(y) AS list_transform([spark_present(y)], lambda x: list_transform([spark_mean(x)],
    lambda m: CASE WHEN spark_moment(x, m, 2) = 0 THEN NULL
    ELSE len(x) * spark_moment(x, m, 4) / pow(spark_moment(x, m, 2), 2) - 3 END)[1])[1];
"""

STATEMENTS = {
    name: f"CREATE MACRO {name}{rest}" for name, rest in re.findall(r"CREATE MACRO (\w+)(.*?);\n", _ALL, re.S)
}
"""By name: the statement that creates a macro, after those that it needs."""
