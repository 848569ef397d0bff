# ruff: noqa: E501 - tables
"""The names that Spark gives to the columns of function calls without an alias."""

from __future__ import annotations

_CAPITALS = {"acos", "asin", "atan", "atan2", "cbrt", "cos", "cosh", "cot", "degrees", "e", "exp", "expm1", "hypot", "log10", "log1p",
         "log2", "pi", "power", "radians", "ceil", "floor", "rlike", "regexp", "regexp_like",
         "signum", "sin", "sinh", "sqrt", "tan", "tanh", "rank", "dense_rank", "percent_rank"}  # fmt: skip
"""Functions whose names Spark writes in capitals in column names."""
_DEFAULTS = {
    ("percentile_approx", 2): ["10000"], ("approx_percentile", 2): ["10000"], ("percentile", 2): ["1"],
    ("months_between", 2): ["true"], ("unix_timestamp", 1): ["yyyy-MM-dd HH:mm:ss"], ("split", 2): ["-1"],
    ("to_unix_timestamp", 1): ["yyyy-MM-dd HH:mm:ss"], ("from_unixtime", 1): ["yyyy-MM-dd HH:mm:ss"],
    ("lpad", 2): [" "], ("rpad", 2): [" "], ("replace", 2): [""], ("regexp_extract", 2): ["1"],
    ("regexp_extract_all", 2): ["1"], ("regexp_instr", 2): ["0"], ("substring", 2): ["2147483647"], ("substr", 2): ["2147483647"], ("regexp_replace", 3): ["1"], ("locate", 2): ["1"],
    ("position", 2): ["1"], ("overlay", 3): ["-1"], ("str_to_map", 1): [",", ":"], ("str_to_map", 2): [":"],
    ("lag", 1): ["1", "NULL"], ("lag", 2): ["NULL"], ("lead", 1): ["1", "NULL"], ("lead", 2): ["NULL"],
}  # fmt: skip
"""Default arguments that Spark adds in column names."""
_FORMS = {("if", 3): "(IF({}, {}, {}))", ("isnull", 1): "({} IS NULL)", ("isnotnull", 1): "({} IS NOT NULL)",
         ("log", 1): "LOG(E(), {})", ("positive", 1): "(+ {})", ("like", 2): "{} LIKE {}", ("ltrim", 2): "TRIM(LEADING {} FROM {})",
         ("rtrim", 2): "TRIM(TRAILING {} FROM {})", ("dateadd", 2): "date_add({}, {})"}  # fmt: skip
"""Functions that Spark writes in a form of their own in column names."""


def of(name: str, args: list[str]) -> str:
    """Return the column name that Spark gives to a call."""
    args = [*args, *_DEFAULTS.get((name, len(args)), [])]
    if (name, len(args)) in _FORMS:
        return _FORMS[name, len(args)].format(*args)
    name = {"array_agg": "collect_list"}.get(name, name.upper() if name in _CAPITALS else name)
    return f"{name.upper() if name == 'log' and len(args) == 2 else name}({', '.join(args)})"
