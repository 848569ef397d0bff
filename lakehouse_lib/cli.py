"""The ``lakehouse`` command: its options, and how they are passed on to the notebooks."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lakehouse_lib import config
from lakehouse_lib.commands import care, explore, runs
from lakehouse_lib.errors import LakehouseError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parser().parse_args(arguments)
    before = dict(os.environ)  # the variables set for this command's kernels must not reach the next command
    try:
        _set_environment(options)
        status: int = options.does(options)
        return status
    except LakehouseError as error:
        print(f"lakehouse: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("lakehouse: stopped; the next run carries on", file=sys.stderr)
        return 1
    finally:
        os.environ.clear()
        os.environ.update(before)


def command() -> NoReturn:
    """`main` as the only work of a process. It ends at once: Python would free for a third of a second what the end of
    the process frees as well."""
    try:
        status = main()
    except BrokenPipeError:  # whoever read the output has enough of it
        status = 1
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # a closed pipe
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read ``--from -7d`` as ``--from=-7d``; argparse would take ``-7d`` for an option."""
        arguments: list[str] = []
        for argument in sys.argv[1:] if args is None else args:
            if arguments and arguments[-1] in ("--from", "--to") and re.fullmatch(r"-\d+d", argument, re.IGNORECASE):
                arguments[-1] += f"={argument}"
            else:
                arguments.append(argument)
        return super().parse_known_args(arguments, namespace)


_Handler = Callable[[argparse.Namespace], int]
_AddCommand = Callable[[str, _Handler, str], argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, with every command and its options."""
    root = _Parser(prog="lakehouse", description="The lakehouse in the terminal.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, handler: _Handler, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--params", metavar="FILE", help="parameters file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
        command.set_defaults(does=handler)
        return command

    for add_group in (_add_runs, _add_trust, _add_tables, _add_care, _add_services):
        add_group(add_command)
    return root


def _add_runs(add_command: _AddCommand) -> None:
    setup = add_command("setup", runs.set_up, "show which engine is installed; with --spark, install what Spark needs")
    setup.add_argument("--spark", action="store_true", help="install Java if there is none, and Delta's jars")
    run = add_command("run", runs.run_layers, "update the layers in order, incrementally, by running the notebooks")
    run.add_argument("--tables", default="", help="comma-separated; default: all")
    forms = "YYYY-MM-DD, today, yesterday, or -7d for seven days ago (UTC)"
    run.add_argument(
        "--from",
        dest="date_from",
        default="",
        metavar="DAY",
        help=f"recompute the gold tables from this day on, up to --to or else the last day: {forms}",
    )
    run.add_argument("--to", dest="date_to", default="", metavar="DAY",
                     help="recompute the gold tables up to this day, from --from or else the first day; a table of "
                          "running figures, such as daily_summary_gold, also recomputes the days after it")  # fmt: skip
    run.add_argument("--full", action="store_true", help="rebuild all days instead of updating incrementally")
    run.add_argument(
        "--sample",
        action="store_true",
        help="write sample input first if there are neither landing files nor tables",
    )
    run.add_argument("--notify", default="", metavar="COMMAND",
                     help="receives the summary as JSON when the run fails or the verdict changes")  # fmt: skip
    run.add_argument("--forward-only", action="append", default=[], metavar="TABLE",
                     help="keep the existing rows of this table although its code or settings have changed; only "
                          "new rows follow the new rules")  # fmt: skip
    run.add_argument("--confirm", action="store_true",
                     help="rebuild tables although that takes more rows than plan.confirm_rows")  # fmt: skip
    run.add_argument("--drop-columns", default="", metavar="TABLES",
                     help="comma-separated: rebuild these tables without the columns that are no longer "
                          "declared")  # fmt: skip
    plan = add_command("plan", runs.show_plan, "show which tables the next run rebuilds because their declaration, "
                       "settings or code have changed; exits with 4 if there are any")  # fmt: skip
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument("--preview", default="", metavar="TABLE",
                      help="build this table under ops/preview, beside the existing one, and show how they and the "
                           "gold tables made from them differ")  # fmt: skip
    plan.add_argument("--days", type=_days, default=0, metavar="N", help="compare only the last N days of the table")
    plan.add_argument("--apply", action="store_true", help="then rebuild the table, in one commit")
    notebook = add_command("notebook", runs.run_notebook, "execute one notebook")
    notebook.add_argument("name")


def _days(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days: 1 or more")
    return int(text)


def _add_trust(add_command: _AddCommand) -> None:
    add_command(
        "health",
        care.show_health,
        "the health of the lakehouse, and what needs attention; exits with 3 if it is degraded",
    )
    add_command("report", runs.write_report, "the health report and the business report, each as one HTML page")
    sample = add_command("sample", runs.write_sample, "write sample landing files")
    sample.add_argument("--rows", type=int, required=True)
    sample.add_argument("--out", required=True)
    sample.add_argument("--seed", type=int)
    quality = add_command(
        "quality", care.check_quality, "show the last results of the checks, run them now, or profile a table"
    )
    quality.add_argument("action", nargs="?", default="show", choices=("show", "check", "profile", "anomalies"))
    quality.add_argument("table", nargs="?", default="", help="default: all tables")
    quarantine = add_command(
        "quarantine",
        care.handle_quarantine,
        "show the rejected records and why they were rejected, replay them, or "
        "set aside accepted records that fail a new check",
    )
    quarantine.add_argument("action", nargs="?", default="show", choices=("show", "replay", "apply"))
    quarantine.add_argument("table", nargs="?", default="", help="bronze table; required for replay")
    quarantine.add_argument("--reason", default="", help="only records that carry this flag")
    quarantine.add_argument("--check", default="", help="with apply: only if this check has changed")


def _add_tables(add_command: _AddCommand) -> None:
    add_command("tables", explore.list_tables, "list the tables and their row counts")
    describe = add_command("describe", explore.describe_table, "describe a table: columns, owner, sources, state")
    describe.add_argument("table")
    describe.add_argument("--owner", default="", help="set the owner")
    describe.add_argument("--tag", action="append", default=[], metavar="TAG", help="add a tag")
    describe.add_argument("--untag", action="append", default=[], metavar="TAG", help="remove a tag")
    search = add_command(
        "search", explore.search_tables, "find tables by name, column, tag:…, owner:…, layer:… or text"
    )
    search.add_argument("words", nargs="+")
    lineage = add_command(
        "lineage", explore.show_lineage, "show what a table or column is made from, and what is made from it"
    )
    lineage.add_argument("table", metavar="TABLE[.COLUMN]")
    lineage.add_argument("--up", action="store_true", help="only what it is made from")
    lineage.add_argument("--down", action="store_true", help="only what is made from it")
    trace = add_command("trace", explore.trace_row, "trace a row back to the landing files and records it is made from")
    trace.add_argument("table")
    trace.add_argument("key", nargs="+", help="values of the key columns in order, or column=value")
    trace.add_argument("--limit", type=int, default=3, help="rows of each table to follow (default 3)")
    history = add_command("history", explore.show_history, "list the versions of a table: operation, rows, change")
    history.add_argument("table")
    diff = add_command("diff", explore.compare_versions, "compare two versions of a table")
    diff.add_argument("table")
    diff.add_argument("from_version", type=int, metavar="V1")
    diff.add_argument("to_version", type=int, metavar="V2")
    restore = add_command(
        "restore", care.restore_version, "restore a table to a version; only shows what would change unless --yes"
    )
    restore.add_argument("table")
    restore.add_argument("version", type=int)
    restore.add_argument("--yes", action="store_true", help="do it")


def _add_care(add_command: _AddCommand) -> None:
    optimize = add_command(
        "optimize",
        care.optimize_tables,
        "compact small files, ordered by the first clustering column; shorten logs",
    )
    optimize.add_argument("table", nargs="?", default="", help="default: every table that is worth it")
    vacuum = add_command(
        "vacuum", care.vacuum_tables, "remove files that no version within the retention needs; dry run unless --yes"
    )
    vacuum.add_argument("table", nargs="?", default="", help="default: all tables")
    vacuum.add_argument(
        "--hours",
        type=int,
        help="hours to keep (default: the time travel retention, or the vacuum retention if longer)",
    )
    vacuum.add_argument("--force", action="store_true", help="even if versions can no longer be read afterwards")
    vacuum.add_argument("--yes", action="store_true", help="do it")
    retention = add_command(
        "retention",
        care.apply_retention,
        "archive all rows past their retention, including those that a run leaves to a person; dry run unless --yes",
    )
    retention.add_argument("table", nargs="?", default="", help="default: all tables")
    retention.add_argument("--yes", action="store_true", help="do it")
    archive = add_command("archive", care.handle_archive, "show the archive, or restore a table's rows from it")
    archive.add_argument("action", nargs="?", default="show", choices=("show", "restore"))
    archive.add_argument("table", nargs="?", default="", help="required for restore")


def _add_services(add_command: _AddCommand) -> None:
    api = add_command("api", runs.serve_api, "serve the REST API: catalog, tables, previews, lineage, health, metrics")
    api.add_argument("--host", default="127.0.0.1", help="an address other than loopback requires LAKEHOUSE_API_TOKEN")
    api.add_argument("--port", type=int, default=8888)
    add_command("lab", runs.start_lab, "start JupyterLab, attached to the warm engine")


def _set_environment(options: argparse.Namespace) -> None:
    """Pass ``--set``, ``--params`` and the limits of a run on to the notebooks' kernels, as environment variables.
    They take precedence over variables that are already set."""
    for name in ("tables", "full", "confirm", "drop_columns", "date_from", "date_to"):
        if value := getattr(options, name, ""):
            os.environ[config.variable(name)] = str(value)
    for assignment in options.assignments:
        name, value = config.environment_of(assignment)
        os.environ[name] = value
    if options.params:
        # A path relative to the workbook works from any folder, for example in a cron job.
        candidates = (Path(options.params), config.project_root() / options.params)
        parameters = next((path for path in candidates if path.exists()), Path(options.params))
        os.environ[config.FILE_VARIABLE] = str(parameters.resolve())


if __name__ == "__main__":
    sys.exit(main())
