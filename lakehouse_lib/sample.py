"""Sample input: what a processing layer would deliver, in any amount, generated from a seed.

Some users come back and some do not; they click in sessions, and are busier in the evening and on weekdays.
Producers deliver some records late, some twice, and some broken. The same settings give the same bytes: each day
has its own random generator, and only Python's ``random`` is used.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from lakehouse_lib.config import SampleSettings, Settings
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

HOURS = (2, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 11, 10, 9, 9, 10, 11, 13, 15, 16, 14, 9, 5)
WEEKDAYS = (1.05, 1.1, 1.1, 1.05, 1.0, 0.8, 0.75)
PAGES = ("home", "search", "product", "cart", "checkout", "account", "help", "blog")
NEXT_PAGE = {
    "home": (1, 5, 5, 1, 0, 1, 1, 2), "search": (1, 3, 9, 1, 0, 0, 0, 0),
    "product": (1, 4, 6, 4, 0, 0, 1, 0), "cart": (1, 1, 3, 1, 6, 0, 0, 0),
    "checkout": (4, 0, 1, 1, 2, 2, 1, 0), "account": (3, 1, 2, 0, 0, 2, 2, 0),
    "help": (3, 1, 1, 0, 0, 2, 3, 1), "blog": (4, 1, 2, 0, 0, 0, 0, 3),
}  # fmt: skip
EVENTS = ("screen_view", "button_tap", "search", "add_to_cart", "purchase", "app_error", "login")
EVENT_WEIGHTS = (50, 22, 10, 7, 3, 2, 6)
COUNTRIES = ("DE", "FR", "GB", "US", "ES", "IT", "PL", "NL")
DEVICES = (
    ("phone", "Android 15", "Pixel 9"),
    ("phone", "iOS 19", "iPhone 17"),
    ("tablet", "iPadOS 19", "iPad Air"),
    ("desktop", "Windows 11", "PC"),
)
PLANS = ("free", "basic", "pro")


MARK = "_SAMPLE"
"""Name of the file that marks a landing folder as filled with sample input."""


def write(settings: SampleSettings, out: Path, rows: int | None = None) -> dict[str, int]:
    """Write landing files below ``out`` and return the number of records of each feed.

    45 % of the rows are app events, 45 % clicks and 10 % changes of the users table; duplicates and redelivered
    records come on top.
    """
    rows = settings.rows if rows is None else rows
    end = settings.end or datetime.now(UTC).date()
    days = [end - timedelta(days=n) for n in range(settings.days, 0, -1)]
    weights = [WEEKDAYS[day.weekday()] * (1 + 0.01 * n) for n, day in enumerate(days)]
    users = settings.users or max(10, rows // 100)
    written = dict.fromkeys(("app_events", "clickstream", "cdc_changes"), 0)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(f"Sample input, {rows} rows from seed {settings.seed}.\n")
    sequence = 0
    for number, day in enumerate(days):
        share = weights[number] / sum(weights)
        rng = random.Random(f"{settings.seed}/{day}")
        generated = {
            "app_events": _events(rng, settings, day, round(rows * 0.45 * share), users),
            "clickstream": _clicks(rng, settings, day, round(rows * 0.45 * share), users),
        }
        for feed, records in generated.items():
            written[feed] += _deliver(rng, settings, feed, day, end, records, out)
        changes, sequence = _changes(rng, day, number, round(rows * 0.1 * share), users, sequence)
        written["cdc_changes"] += _deliver(rng, settings, "cdc_changes", day, end, changes, out)
    return written


def _random_time(rng: random.Random, day: date) -> datetime:
    hour = rng.choices(range(24), HOURS)[0]
    start = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return start + timedelta(milliseconds=rng.randrange(3_600_000))


def _user(rng: random.Random, users: int) -> str:
    # A few users are active all the time, most only now and then.
    return f"user_{int(users * rng.random() ** 2.2):06d}"


def _events(
    rng: random.Random, settings: SampleSettings, day: date, count: int, users: int
) -> Iterator[tuple[datetime, dict[str, Any]]]:
    number = 0
    while number < count:
        user, at = _user(rng, users), _random_time(rng, day)
        device_type, system, model = rng.choices(DEVICES, (5, 4, 1, 3))[0]
        app_type = {"desktop": "web"}.get(device_type, "ios" if system.startswith("i") else "android")
        session, country = f"s{rng.getrandbits(40):010x}", rng.choice(COUNTRIES)
        device = {"device_type": device_type, "os": system, "model": model, "app_version": "4.2.1"}
        for _ in range(min(count - number, 1 + int(rng.expovariate(1 / 9)))):
            event = rng.choices(EVENTS, EVENT_WEIGHTS)[0]
            properties: dict[str, Any] = {"page_name": rng.choice(PAGES), "country": country}
            if event == "purchase":
                properties["value"] = round(math.exp(rng.gauss(3.4, 0.8)), 2)
            if event == "app_error":
                properties["error"] = rng.choice(("timeout", "E42", "null pointer"))
            properties["duration_ms"] = int(rng.expovariate(1 / 800))
            yield at, {
                "event_id": f"e{rng.getrandbits(64):016x}", "event_type": event,
                "event_timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "user_id": user, "app_type": app_type, "session_id": session,
                "properties": properties, "device_info": device, "source_system": "mobile-gateway",
            }  # fmt: skip
            number += 1
            at += timedelta(milliseconds=int(rng.lognormvariate(9.5, 1.0)))


def _clicks(
    rng: random.Random, settings: SampleSettings, day: date, count: int, users: int
) -> Iterator[tuple[datetime, dict[str, Any]]]:
    number = 0
    while number < count:
        at, page = _random_time(rng, day), rng.choices(PAGES, (10, 4, 6, 1, 0, 1, 1, 2))[0]
        visitor = {"user_id": _user(rng, users)}
        if rng.random() < 0.25:
            visitor = {"anonymous_id": f"anon-{rng.getrandbits(32):08x}"}
        session = f"c{rng.getrandbits(40):010x}"
        length = 1 if rng.random() < 0.28 else 2 + int(rng.expovariate(1 / 6))
        for _ in range(min(count - number, length)):
            response_time = rng.lognormvariate(4.6, 0.6)
            status = rng.choices((200, 304, 404, 500), (93, 4, 2, 1))[0]
            yield at, {
                "click_id": f"k{rng.getrandbits(64):016x}",
                "click_timestamp": int(at.timestamp() * 1000), **visitor, "session_id": session,
                "page_name": page, "element": rng.choice(("link", "button", "image")),
                "action": rng.choices(("page_view", "click", "scroll"), (6, 3, 1))[0],
                "referrer": rng.choice(("", "https://search.example", "https://mail.example")),
                "user_agent": "Mozilla/5.0", "response_time_ms": round(response_time, 1),
                "status_code": status,
            }  # fmt: skip
            number += 1
            at += timedelta(milliseconds=int(rng.lognormvariate(10.2, 0.9)))
            page = rng.choices(PAGES, NEXT_PAGE[page])[0]


def _user_row(rng: random.Random, user: int, day: date) -> dict[str, Any]:
    return {
        "user_id": f"user_{user:06d}",
        "email": f"user{user}@example.com",
        "name": f"User {user}",
        "country": rng.choice(COUNTRIES),
        "plan": rng.choices(PLANS, (6, 3, 1))[0],
        "signup_date": str(day - timedelta(days=rng.randrange(400))),
    }


def _changes(
    rng: random.Random, day: date, number: int, count: int, users: int, sequence: int
) -> tuple[list[tuple[datetime, dict[str, Any]]], int]:
    """A day's changes as Debezium envelopes, and the new sequence number: a snapshot on the first day, then updates,
    deletes and re-inserts."""
    changes: list[tuple[datetime, dict[str, Any]]] = []
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)

    def envelope(at: datetime, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
        millis = int(at.timestamp() * 1000)
        source = {
            "connector": "mysql", "name": "crm", "db": "crm", "table": "users",
            "snapshot": "true" if op == "r" else "false", "ts_ms": millis,
            "file": f"mysql-bin.{3 + number:06d}", "pos": 4 + sequence * 300, "row": 0,
        }  # fmt: skip
        return {"op": op, "before": before, "after": after, "source": source, "ts_ms": millis + 40}

    if number == 0:
        for user in range(min(users, count)):
            sequence += 1
            changes.append((midnight, envelope(midnight, "r", None, _user_row(rng, user, day))))
    times = sorted(_random_time(rng, day) for _ in range(max(0, count - len(changes))))
    for at in times:
        user = rng.randrange(users)
        row, sequence = _user_row(rng, user, day), sequence + 1
        op = rng.choices(("u", "d", "c"), (90, 4, 6))[0]
        before = row | {"plan": "free"}
        changes.append((at, envelope(at, op, None if op == "c" else before, None if op == "d" else row)))
    return changes, sequence


def _deliver(
    rng: random.Random,
    settings: SampleSettings,
    feed: str,
    day: date,
    end: date,
    records: Iterator[tuple[datetime, dict[str, Any]]] | list[tuple[datetime, dict[str, Any]]],
    out: Path,
) -> int:
    """Write a day's records: most in the files of the day, some late, some twice, some broken; returns their number."""
    folder = out / feed / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    share_repeated = settings.share_redelivered if feed == "cdc_changes" else settings.share_duplicates
    written = 0
    late: list[str] = []
    with ExitStack() as stack:

        def opened(name: str) -> IO[bytes] | gzip.GzipFile:
            file = stack.enter_context((folder / name).open("wb"))
            if name.endswith(".gz"):
                # Without a name and a time in the header, the same records give the same bytes.
                return stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
            return file

        # On every seventh day clicks come as CSV, so that the feed mixes formats.
        as_csv = feed == "clickstream" and day.toordinal() % 7 == 0
        files = [opened(f"part-{n}.{'csv' if as_csv else 'jsonl'}.gz") for n in range(2)]
        if as_csv:
            for handle in files:
                handle.write((",".join(_CSV) + "\n").encode())
        for _, record in records:
            line = _line(rng, settings, feed, record, as_csv)
            copies = 2 if rng.random() < share_repeated else 1
            for _ in range(copies):
                written += 1
                if not as_csv and rng.random() < settings.share_late:
                    late.append(line)
                else:
                    files[rng.randrange(2)].write((line + "\n").encode())
    for path in folder.iterdir():
        _set_modified(path, day + timedelta(days=1))
    if late:
        arrived = min(end, day + timedelta(days=rng.randrange(2, 4)))
        late_folder = out / feed / "late"
        late_folder.mkdir(exist_ok=True)
        path = late_folder / f"{day}.jsonl"
        path.write_text("".join(line + "\n" for line in late))
        _set_modified(path, arrived)
    return written


_CSV = ("click_id", "click_timestamp", "user_id", "anonymous_id", "session_id", "page_name",
        "element", "action", "referrer", "user_agent", "response_time_ms", "status_code")  # fmt: skip


def _line(rng: random.Random, settings: SampleSettings, feed: str, record: dict[str, Any], as_csv: bool) -> str:
    """A record as a line of a file; some records are made invalid on purpose."""
    time_field = {"app_events": "event_timestamp", "clickstream": "click_timestamp"}.get(feed)
    if time_field:
        id_field = "event_id" if feed == "app_events" else "click_id"
        if rng.random() < settings.share_missing:
            record.pop(id_field)
        if rng.random() < settings.share_out_of_range:
            record[time_field] = rng.choice(("1970-01-01T00:00:00Z", "2999-12-31T23:59:59Z"))
        if rng.random() < settings.share_wrong_type:
            if feed == "clickstream":
                record["response_time_ms"] = "fast"
            else:
                record[time_field] = "yesterday"
        if rng.random() < settings.share_new_fields:
            record["experiment"] = rng.choice(("A", "B"))
    if as_csv:
        return ",".join(str(record.get(name, "")) for name in _CSV)
    line = json.dumps(record, separators=(",", ":"))
    if rng.random() < settings.share_malformed:
        line = line[: rng.randrange(5, len(line) - 1)]
    return line


def _set_modified(path: Path, day: date) -> None:
    delivered = datetime(day.year, day.month, day.day, 1, tzinfo=UTC)
    moment = min(delivered, datetime.now(UTC)).timestamp()  # between midnight and one, not ahead of the clock
    os.utime(path, (moment, moment))


def wanted(settings: Settings) -> bool:
    """Whether a sample may be written: the settings ask for it, the landing folder is the default one and holds no
    files, and no table exists. A sample is never mixed with the user's own data."""
    landing = settings.layer_path("landing")
    if not settings.sample.rows or settings.landing_path or settings.feeds or "://" in landing:
        return False
    if any(path.is_file() for path in Path(landing).rglob("*")):
        return False
    return not any(delta.exists(settings, table) for table in tables.declared(settings).values())


def is_sample(settings: Settings) -> bool:
    """Whether the landing folder was filled by `write`."""
    landing = settings.layer_path("landing")
    return "://" not in landing and (Path(landing) / MARK).is_file()


def write_landing(settings: Settings) -> None:
    """Write the sample that the settings ask for into the landing folder, which is empty or does not exist."""
    landing = Path(settings.layer_path("landing"))
    # Written to another folder and then renamed, so that a killed process leaves no partial sample.
    new = landing.with_name(landing.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    write(settings.sample, new)
    for folder in sorted((path for path in landing.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()  # only empty folders, or no sample would be wanted
    new.rename(landing)
