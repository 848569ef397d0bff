"""The ``lakehouse`` command."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_lib import config
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import (
    ConfigError,
    LakehouseError,
    LockedError,
    NotMadeError,
    QualityError,
    SetupError,
)

if TYPE_CHECKING:
    from lakehouse_lib.model.tables import Table


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    before = dict(os.environ)  # what a command tells its kernels by variables is not for the next one
    try:
        _environment(options)
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


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """``--from -7d`` as ``--from=-7d``: argparse takes the day for an option of its own."""
        joined: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if joined and joined[-1] in ("--from", "--to") and re.fullmatch(r"-\d+d", word, re.IGNORECASE):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return super().parse_known_args(joined, namespace)


_Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The command line: every command and its options."""
    whole = _Parser(prog="lakehouse", description="The lakehouse in the terminal.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--params", metavar="FILE", help="parameters file")
        added.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="given")
        added.set_defaults(does=does)
        return added

    for add in (_add_runs, _add_trust, _add_tables, _add_care, _add_services):
        add(command)
    return whole


def _add_runs(command: _Command) -> None:
    setup = command("setup", _setup, "say which engine is here; with --spark fetch what Spark needs")
    setup.add_argument("--spark", action="store_true", help="a Java where there is none, and Delta's jars")
    run = command("run", _run, "the layers in order, incremental, through the notebooks")
    run.add_argument("--tables", default="", help="comma-separated; default: all")
    forms = "YYYY-MM-DD, today, yesterday, or -7d for seven days ago (UTC)"
    run.add_argument("--from", dest="date_from", default="", metavar="DAY",
                     help="compute the days of the gold tables from this one on again, up to --to or else the last "
                          f"there is: {forms}")  # fmt: skip
    run.add_argument("--to", dest="date_to", default="", metavar="DAY",
                     help="the same up to this day, from --from or else the first there is; a table of running "
                          "figures, such as daily_summary_gold, also computes the days after")  # fmt: skip
    run.add_argument("--full", action="store_true", help="rebuild instead of increment, all days")
    run.add_argument(
        "--sample",
        action="store_true",
        help="write sample input first, where there are neither landing files nor tables",
    )
    run.add_argument("--notify", default="", metavar="COMMAND",
                     help="gets the summary as JSON when the run fails or the verdict changes")  # fmt: skip
    notebook = command("notebook", _notebook, "execute one notebook")
    notebook.add_argument("name")


def _add_trust(command: _Command) -> None:
    command("health", _health, "how the lakehouse is, and what needs a person; ends with 3 if it is degraded")
    command("report", _report, "the same as one HTML page, with the figures")
    sample = command("sample", _sample, "write sample landing files")
    sample.add_argument("--rows", type=int, required=True)
    sample.add_argument("--out", required=True)
    sample.add_argument("--seed", type=int)
    quality = command("quality", _quality, "checks: the last results, run them now, or look closely at a table")
    quality.add_argument("action", nargs="?", default="show", choices=("show", "check", "profile", "anomalies"))
    quality.add_argument("table", nargs="?", default="", help="default: all tables")
    quarantine = command("quarantine", _quarantine, "rejected records: what waits and why, or put them through again")
    quarantine.add_argument("action", nargs="?", default="show", choices=("show", "replay"))
    quarantine.add_argument("table", nargs="?", default="", help="bronze table; needed for replay")
    quarantine.add_argument("--reason", default="", help="only records that carry this flag")


def _add_tables(command: _Command) -> None:
    command("tables", _tables, "the tables and what is in them")
    describe = command("describe", _describe, "a table: columns, owner, sources, state")
    describe.add_argument("table")
    describe.add_argument("--owner", default="", help="give it this owner")
    describe.add_argument("--tag", action="append", default=[], metavar="TAG", help="add a tag")
    describe.add_argument("--untag", action="append", default=[], metavar="TAG", help="remove a tag")
    search = command("search", _search, "find tables by name, column, tag:…, owner:…, layer:… or text")
    search.add_argument("words", nargs="+")
    lineage = command("lineage", _lineage, "what a table or column is made from, and what is made from it")
    lineage.add_argument("table", metavar="TABLE[.COLUMN]")
    lineage.add_argument("--up", action="store_true", help="only what it is made from")
    lineage.add_argument("--down", action="store_true", help="only what is made from it")
    trace = command("trace", _trace, "from a row down to the landing files and records that it is made from")
    trace.add_argument("table")
    trace.add_argument("key", nargs="+", help="values of its key in order, or column=value")
    trace.add_argument("--limit", type=int, default=3, help="rows of each table to follow (default 3)")
    history = command("history", _history, "the versions of a table: operation, rows, change")
    history.add_argument("table")
    diff = command("diff", _diff, "what differs between two versions of a table")
    diff.add_argument("table")
    diff.add_argument("one", type=int, metavar="V1")
    diff.add_argument("other", type=int, metavar="V2")
    restore = command("restore", _restore, "take a table back to a version; says what would change, unless --yes")
    restore.add_argument("table")
    restore.add_argument("version", type=int)
    restore.add_argument("--yes", action="store_true", help="do it")


def _add_care(command: _Command) -> None:
    optimize = command("optimize", _optimize, "put small files together, ordered by what is looked for; shorten logs")
    optimize.add_argument("table", nargs="?", default="", help="default: whatever is worth it")
    vacuum = command("vacuum", _vacuum, "remove files that no version within the retention needs; dry run unless --yes")
    vacuum.add_argument("table", nargs="?", default="", help="default: all tables")
    vacuum.add_argument("--hours", type=int, help="keep so many hours (default: time travel, or vacuum if longer)")
    vacuum.add_argument("--force", action="store_true", help="even where versions can no longer be read then")
    vacuum.add_argument("--yes", action="store_true", help="do it")
    retention = command(
        "retention",
        _retention,
        "archive all rows past their retention, also those that a run leaves to a person; dry run unless --yes",
    )
    retention.add_argument("table", nargs="?", default="", help="default: all tables")
    retention.add_argument("--yes", action="store_true", help="do it")
    archived = command("archive", _archive, "what is in the archive, or bring a table's rows back from it")
    archived.add_argument("action", nargs="?", default="show", choices=("show", "restore"))
    archived.add_argument("table", nargs="?", default="", help="needed for restore")


def _add_services(command: _Command) -> None:
    api = command("api", _api, "the REST API: catalog, tables, previews, lineage, health, metrics")
    api.add_argument("--host", default="127.0.0.1", help="other than loopback needs LAKEHOUSE_API_TOKEN")
    api.add_argument("--port", type=int, default=8888)
    command("lab", _lab, "JupyterLab attached to the warm engine")


def _environment(options: argparse.Namespace) -> None:
    """``--set``, ``--params`` and what limits a run reach the notebooks' kernels as environment variables, and
    win over those that were there."""
    for name in ("tables", "full", "date_from", "date_to"):
        if value := getattr(options, name, ""):
            os.environ[config.variable(name)] = str(value)
    for assignment in options.given:
        name, value = config.environment_of(assignment)
        os.environ[name] = value
    if options.params:
        # A path of the workbook is found from any folder, as cron has it.
        found = next(
            (path for path in (Path(options.params), config.project_root() / options.params) if path.exists()),
            Path(options.params),
        )
        os.environ[config.FILE_VARIABLE] = str(found.resolve())


def _settings(**values: Any) -> Settings:
    settings = config.load(values)
    config.log_to_file(settings)
    return settings


def _setup(options: argparse.Namespace) -> int:
    from lakehouse_lib.engines import toolchain

    if not options.spark:
        print(f"Engine: Sail {toolchain.native_version()}. For Spark on this machine: lakehouse setup --spark")
        return 0
    try:
        java = toolchain.find_java()
    except SetupError as error:
        print(f"{error}\nInstalling one from PyPI …")
        toolchain.install_java()
        java = toolchain.find_java()
    print(f"Java: {java}\nDelta: {toolchain.delta_jars()[0].parent}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from lakehouse_lib import run
    from lakehouse_lib.care import health

    settings = _settings(notify=options.notify)
    for name in ("date_from", "date_to"):
        if day := getattr(settings, name):  # `yesterday` is the same day after midnight
            os.environ[config.variable(name)] = day.isoformat()
    run_id = settings.run_id or config.new_run_id()
    before = health.last_verdict(settings) if settings.notify else ""
    failure: LakehouseError | None = None
    try:
        run.everything(settings, run_id, options.sample)
    except (ConfigError, LockedError):
        raise
    except LakehouseError as error:
        failure = error
    if settings.notify:
        health.tell(settings, run_id, before, failure)
    if failure:
        raise failure
    return 0


def _health(_: argparse.Namespace) -> int:
    from lakehouse_lib.care import health

    made = health.report(_settings())
    print(made.text())
    return QualityError.exit_status if made.verdict == "Degraded" else 0


def _report(_: argparse.Namespace) -> int:
    from lakehouse_lib import run

    settings = _settings()
    run.report(settings, settings.run_id or config.new_run_id(), latest=False)
    return 0


def _notebook(options: argparse.Namespace) -> int:
    from lakehouse_lib import notebooks
    from lakehouse_lib.engines import session

    settings = _settings()
    os.environ[session.OWNER_VARIABLE] = str(os.getpid())
    try:
        run_id = settings.run_id or config.new_run_id()
        print(notebooks.execute(settings, options.name, run_id, latest=False).with_suffix(".html"))
    finally:
        session.release(settings)
    return 0


def _sample(options: argparse.Namespace) -> int:
    from lakehouse_lib import sample

    rules = _settings().sample
    if options.seed is not None:
        rules = rules.model_copy(update={"seed": options.seed})
    out = Path(options.out)
    if not (out / sample.MARK).exists() and any(path.is_file() for path in out.rglob("*")):
        raise ConfigError(f"{out} holds files that are no sample. Give an empty folder: nothing was written.")
    for feed, count in sample.write(rules, out, options.rows).items():
        print(f"{feed:<14} {count:>12,} records")
    return 0


def _quality(options: argparse.Namespace) -> int:
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import delta
    from lakehouse_lib.trust import quality

    settings = _settings()
    wanted = [tables.get(settings, options.table)] if options.table else list(tables.declared(settings).values())
    made = [table for table in wanted if delta.exists(settings, table)]
    if options.table and not made:
        raise NotMadeError(f"{options.table} has not been made yet: there is nothing to check.")
    if options.action in ("profile", "anomalies"):
        from lakehouse_lib.trust import anomalies, profiles

        for table in made:
            print((profiles if options.action == "profile" else anomalies).text(settings, table))
        if not made:
            print("No table has been made yet.")
        return 0
    known = quality.latest(settings)
    if options.action == "check":
        for table in made:
            known[table.name] = {found.check_name: found for found in quality.run_checks(settings, table)}
            quality.write_results(settings, list(known[table.name].values()))
    results = [found for table in made for found in known.get(table.name, {}).values()]
    for found in results:
        print(f"{found.severity.upper() if found.failed else found.verdict:<11} {found.message}")
    if failing := quality.stopping(results):
        raise QualityError(f"{len(failing)} of {len(results)} checks fail; nothing is made from their tables.")
    judged = [found for found in results if found.passed is not None]
    left = f"; {len(results) - len(judged)} had no rows to look at" if len(judged) < len(results) else ""
    print(f"{sum(bool(found.passed) for found in judged)} of {len(judged)} checks pass{left}.")
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import quarantine
    from lakehouse_lib.engines import session

    settings = _settings()
    if options.action == "show":
        found = quarantine.summary(settings, options.table, options.reason)
        row: Any
        for row in found.itertuples():
            print(f"{row.table_name:<22} {row.records:>9,}  {row.flags}: {row.reason}\n{'':34}{row.example[:120]}")
        if found.empty:
            print(
                f"Nothing waits: no rejected record{f' of {options.table}' if options.table else ''}"
                f"{f' carries {options.reason}' if options.reason else ' is in quarantine'}."
            )
        return 0
    if not options.table:
        raise ConfigError("Say which table: lakehouse quarantine replay app_events_bronze")
    os.environ[session.OWNER_VARIABLE] = str(os.getpid())
    try:
        quarantine.replay(settings, options.table, options.reason)
    finally:
        session.release(settings)
    return 0


def _describe(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lakehouse_lib.catalog import catalog

    settings = _settings()
    if options.owner or options.tag or options.untag:
        entry = catalog.edit(settings, options.table, options.owner, options.tag, options.untag)
    else:
        entry = catalog.describe(settings, options.table)
    for name, value in asdict(entry).items():
        if name != "columns":
            print(f"{name.replace('_', ' '):<16} {', '.join(value) if isinstance(value, list) else value}")
    for column in json.loads(entry.columns):
        must = "required" if column["required"] else ""
        print(f"    {column['name']:<26} {column['type'][:40]:<14} {must:<9} {column['comment']}")
    return 0


def _search(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import catalog

    found = catalog.search(_settings(), " ".join(options.words))
    print(catalog.overview(found).to_string(index=False) if found else "No table holds all of these words.")
    return 0


def _lineage(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import lineage

    settings = _settings()
    of_column = "." in options.table
    up, down = (
        (lineage.column_upstream, lineage.column_downstream) if of_column else (lineage.upstream, lineage.downstream)
    )
    if options.up or not options.down:
        print("Made from:\n" + lineage.tree(up(settings, options.table), options.table, 1))
        if of_column and (chosen := lineage.columns(settings).get(options.table, lineage.Made()).indirect):
            print(f"Which value it is follows from {', '.join(chosen)}")
    if options.down or not options.up:
        print("Made from it:\n" + lineage.tree(down(settings, options.table), options.table, 1))
    return 0


def _trace(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import trace

    print(trace.trace(_settings(), options.table, options.key, options.limit).text())
    return 0


def _history(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = _settings()
    table = tables.get(settings, options.table)
    history.opened(settings, table)
    print(history.versions(settings, table).to_string(index=False))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = _settings()
    found = history.diff(settings, tables.get(settings, options.table), options.one, options.other)
    print(found)
    if len(found.examples):
        print(found.examples.to_string(index=False, max_colwidth=40))
    return 0


def _restore(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import restore
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = _settings()
    table = tables.get(settings, options.table)
    now = history.opened(settings, table).version()
    print(history.diff(settings, table, now, options.version))
    for line in restore.consequences(settings, table, options.version):
        print(line)
    if not options.yes:
        print("Nothing was done; add --yes to do it.")
        return 0
    made = restore.restore(settings, table, options.version)
    print(
        f"{table.name} is now version {made}, with the rows of version {options.version}. "
        "`lakehouse run` brings what is made from it up to date."
    )
    return 0


def _named(settings: Settings, name: str) -> list[Table]:
    """The table of that name, or all that have been made."""
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import delta

    return (
        [tables.get(settings, name)]
        if name
        else [table for table in tables.declared(settings).values() if delta.exists(settings, table)]
    )


def _optimize(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked
    from lakehouse_lib.model import tables

    settings = _settings()
    with locked(settings):
        if options.table:
            table = tables.get(settings, options.table)
            print(maintenance.optimize(settings, table, everything=True))
            print(maintenance.clean_log(settings, table))
            return 0
        found = [work for work in maintenance.due(settings) if work.kind in ("compact", "checkpoint")]
        for work in found:
            print(f"{work.table}: {work.why}")
            print(f"    {maintenance.do(settings, work)}")
    if not found:
        print("Nothing is worth it: no partition has many small files, and no log is long.")
    return 0


def _vacuum(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked

    settings = _settings()
    kept = maintenance.kept_hours(settings)
    hours = kept if options.hours is None else options.hours
    print(
        f"Files are kept {hours} hours after the last version that needs them (time travel "
        f"{settings.time_travel_retention_days} days, vacuum {settings.vacuum_retention_days} days: the longer counts)."
    )
    with locked(settings):
        for table in _named(settings, options.table):
            if options.yes:
                print(maintenance.vacuum(settings, table, options.hours, options.force))
                continue
            files, size = maintenance.removable(settings, table, options.hours)
            print(f"{table.name}: {len(files)} files, {size:,} bytes would be freed")
            if options.hours is not None and options.hours < kept:
                lost = maintenance.unreadable(settings, table, options.hours)
                print(f"    versions that could no longer be read: {', '.join(map(str, lost)) or 'none'}")
    if not options.yes:
        print("Nothing was done; add --yes to do it.")
    return 0


def _retention(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked

    settings = _settings()
    with locked(settings):
        for table in _named(settings, options.table):
            if options.yes:
                print(maintenance.retention(settings, table))
                continue
            past = maintenance.to_archive(settings, table)
            for work in past:
                print(f"{table.name}: {work.why} ({work.bytes:,} bytes)")
            if not past:
                print(f"{table.name}: nothing is past its retention")
    if not options.yes:
        print("Nothing was done; add --yes to do it.")
    return 0


def _archive(options: argparse.Namespace) -> int:
    from lakehouse_lib.flow import bookkeeping
    from lakehouse_lib.flow.lock import locked
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import archive

    settings = _settings()
    if options.action == "restore":
        if not options.table:
            raise ConfigError("Say which table: lakehouse archive restore app_events_bronze")
        table = tables.get(settings, options.table)
        with locked(settings):
            found = archive.restore(settings, table)
            bookkeeping.account(settings, table)
        print(f"{table.name}: {sum(batch.rows for batch in found):,} rows of {len(found)} batches are back.")
        return 0
    found = [batch for table in _named(settings, options.table) for batch in archive.batches(settings, table)]
    for batch in found:
        print(
            f"{batch.table:<32} batch {batch.number}: {batch.rows:>9,} rows, {batch.days[0]} to {batch.days[-1]}, "
            f"archived {batch.archived_at}"
        )
    if not found:
        print("The archive holds no rows.")
    return 0


def _tables(_: argparse.Namespace) -> int:
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import reader

    settings = _settings()
    for table in tables.declared(settings).values():
        print(f"{table.layer:<11} {table.name:<32} {reader.count(settings, table.name):>12,}  {table.description}")
    return 0


def _api(options: argparse.Namespace) -> int:
    from lakehouse_lib.serve import api

    api.serve(_settings(), options.host, options.port)
    return 0


def _lab(_: argparse.Namespace) -> int:
    import subprocess

    from lakehouse_lib.engines import session

    settings = _settings()
    os.environ[session.OWNER_VARIABLE] = str(os.getpid())
    session.ensure(settings)
    try:
        return subprocess.call([sys.executable, "-m", "jupyterlab", str(config.project_root() / "notebooks")])
    finally:
        session.release(settings)


if __name__ == "__main__":
    sys.exit(main())
