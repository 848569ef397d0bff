"""What this costs, measured side by side on this machine: ``make bench``."""

from __future__ import annotations

import argparse

import reading
import serving
import sides


def main() -> None:
    """Measure what is asked for and print it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--sides", default=",".join(sides.SIDES), help="which of them, comma-separated")
    options.add_argument("--picture", default="", help="a file for the picture of the comparison (SVG)")
    options.add_argument("--sample", action="store_true", help="the sample with all feeds on both engines instead")
    options.add_argument("--checks", action="store_true", help="the checks against a plain scan instead")
    options.add_argument("--browse", action="store_true", help="the explorer on one large table instead")
    options.add_argument("--layout", action="store_true", help="what optimize saves a reader, on one large table")
    options.add_argument("--api", action="store_true", help="the API on one large table instead")
    options.add_argument("--mix", action="store_true", help="all routes of the API on the sample, 8 clients at once")
    options.add_argument("--seconds", type=float, default=60, help="how long the API is asked by 1 and by 8 clients")
    options.add_argument("--requests", type=int, default=20_000, help="after how many the API's memory is told")
    given = options.parse_args()
    if given.api:
        serving.serve(given.rows, given.seconds, given.requests)
    elif given.mix:
        serving.mixed(given.rows, given.requests)
    elif given.browse:
        reading.browse(given.rows)
    elif given.layout:
        reading.layout(given.rows)
    elif given.checks:
        reading.checks(given.rows, given.rounds)
    elif given.sample:
        sides.sample_runs(given.rows, given.rounds, given.sides.split(","))
    else:
        sides.compare(given.rows, given.rounds, given.sides.split(","), given.picture)


if __name__ == "__main__":
    main()
