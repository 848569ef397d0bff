"""What a table is made by, as a record with a number, and what differs between two of these records."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
"""A fingerprint: ``declaration``, ``settings`` by path, ``code`` (digests by name), ``version``; ``since`` if the rows
up to a version follow earlier rules."""


@dataclass(frozen=True)
class Change:
    """Something that a table is made by and that has changed since it was made."""

    kind: str
    """setting, declaration, column, function or version."""
    name: str
    old: Any = None
    new: Any = None

    @property
    def check(self) -> str:
        """The name of the check of severity quarantine that has changed; empty if it is something else."""
        head, _, name = self.name.partition(" ")
        return name if self.kind == "declaration" and head == "check" else ""

    def __str__(self) -> str:
        if self.kind == "function":
            word = "is new" if self.old is None else "is gone" if self.new is None else "changed"
            return f"{self.name.removeprefix('lakehouse_lib.')} {word}"
        return f"{self.name}: {_shown(self.old)} → {_shown(self.new)}"


def number_of(record: Record) -> int:
    """Return the number of a fingerprint; it does not depend on the modules that functions are defined in."""
    pieces = sorted(_bare(record["code"]).elements())
    rest = {key: value for key, value in record.items() if key != "code"}
    return hashed(json.dumps([rest, pieces], sort_keys=True))


def shown(fingerprint: int) -> str:
    """Return a fingerprint as people see it; empty if it is not known."""
    return f"{fingerprint:016x}" if fingerprint else ""


def digest_of_code(record: Record) -> str:
    """Return a name for the code of a fingerprint, which does not depend on the modules that it is in."""
    return shown(hashed(json.dumps(sorted(_bare(record["code"]).elements()))))


def differences(before: Record, now: Record) -> list[Change]:
    """Return what has changed from one fingerprint to another; of the settings those that both have."""
    old, new = before["declaration"], now["declaration"]
    found = [Change("declaration", key, old.get(key), new.get(key))
             for key in sorted({*old, *new}) if old.get(key) != new.get(key)]  # fmt: skip
    found += [Change("setting", path, old, now["settings"][path]) for path, old in before["settings"].items()
              if path in now["settings"] and old != now["settings"][path]]  # fmt: skip
    if before["version"] and now["version"] != before["version"]:
        found.append(Change("version", "version", before["version"], now["version"]))
    elif not before["version"] and before["code"] != now["code"]:
        found += _code_changes(before["code"], now["code"])
    return found


def hashed(*texts: str) -> int:
    """Return the number of some texts."""
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2 or 1


def _bare(pieces: dict[str, str]) -> Counter[tuple[str, str]]:
    """Names without the module, and digests."""
    return Counter((name.rpartition(".")[2], digest) for name, digest in pieces.items())


def _code_changes(old: dict[str, str], new: dict[str, str]) -> list[Change]:
    before, now = _bare(old), _bare(new)
    gone = {name: digest for name, digest in old.items() if (name.rpartition(".")[2], digest) in before - now}
    come = {name: digest for name, digest in new.items() if (name.rpartition(".")[2], digest) in now - before}
    return [Change("function", name, gone.get(name), come.get(name)) for name in sorted({*gone, *come})]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
