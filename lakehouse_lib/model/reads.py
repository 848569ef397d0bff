"""The settings that a table depends on: they are recorded while its transformation reads them.

A setting is named by its path, such as ``segments.vip_value`` or ``feeds.clickstream.timezone``; lists and mappings
with keys that users choose are one setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, cast, get_args

from pydantic import BaseModel

from lakehouse_lib.config import Settings
from lakehouse_lib.model.code import Code


def watched(settings: Settings, noted: dict[str, Any]) -> Settings:
    """Return the settings; the path and value of each one that is read through them is added to ``noted``."""
    return cast("Settings", _Watched(settings, "", noted))


class _Watched:
    """A part of the settings that records what is read."""

    def __init__(self, part: BaseModel, path: str, noted: dict[str, Any]):
        self._part, self._path, self._noted = part, path, noted

    def __getattr__(self, name: str) -> Any:
        part, path = self._part, f"{self._path}.{name}".lstrip(".")
        setting = getattr(part, name)
        if name not in type(part).model_fields or name.endswith("path"):
            # Paths, the engine and the requested days do not change any row.
            return setting
        if isinstance(setting, BaseModel):
            return _Watched(setting, path, self._noted)
        if _kind_of_values(part, name):
            return _WatchedParts(part, name, path, self._noted)
        self._noted[path] = plain(setting)
        return setting

    def feed(self, name: str) -> Any:
        """Return the settings of a feed, set or default."""
        return self.feeds[name]


class _WatchedParts:
    """Parts of the settings by name; those that are not set are the default."""

    def __init__(self, part: BaseModel, name: str, path: str, noted: dict[str, Any]):
        self._part, self._name, self._path, self._noted = part, name, path, noted

    def __getitem__(self, key: str) -> _Watched:
        return _Watched(_part_of(self._part, self._name, key), f"{self._path}.{key}", self._noted)

    def get(self, key: str, _: Any = None) -> _Watched:
        """Return the part of this name."""
        return self[key]


def value(settings: Settings, path: str) -> Any:
    """Return the value of a setting as `watched` records it; None if the setting no longer exists."""
    part: Any = settings
    names = iter(path.split("."))
    for name in names:
        if not isinstance(part, BaseModel) or name not in type(part).model_fields:
            return None
        part = _part_of(part, name, next(names, "")) if _kind_of_values(part, name) else getattr(part, name)
    return plain(part)


def possible(code: Code, feeds: Iterable[str]) -> Iterator[str]:
    """Yield the settings that some code seems to read, for tables whose reads were never recorded."""
    for name in Settings.model_fields:
        parts = name in code.settings or (name == "feeds" and "feed" in code.settings)
        if parts and not name.endswith("path"):
            yield from _leaves(Settings.model_fields[name].annotation, name, code.attributes, feeds)


def _leaves(kind: Any, path: str, attributes: set[str], feeds: Iterable[str]) -> Iterator[str]:
    named = get_args(kind)[-1] if get_args(kind) else None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, part in kind.model_fields.items():
            if name in attributes and not name.endswith("path"):
                yield from _leaves(part.annotation, f"{path}.{name}", attributes, feeds)
    elif path == "feeds":
        for feed in feeds:
            yield from _leaves(named, f"{path}.{feed}", attributes, feeds)
    else:
        yield path


def _kind_of_values(part: BaseModel, name: str) -> type[BaseModel] | None:
    """Return the class of the parts that a setting holds by name; None for other settings."""
    annotation = type(part).model_fields[name].annotation
    kinds = get_args(annotation)
    if len(kinds) == 2 and isinstance(kinds[1], type) and issubclass(kinds[1], BaseModel):
        return kinds[1]
    return None


def _part_of(part: BaseModel, name: str, key: str) -> BaseModel:
    kind = _kind_of_values(part, name)
    assert kind is not None
    part_set: BaseModel | None = getattr(part, name).get(key)
    return kind() if part_set is None else part_set


def plain(content: Any) -> Any:
    """Return a setting's value as JSON values."""
    if isinstance(content, BaseModel):
        return content.model_dump(mode="json")
    if isinstance(content, dict):
        return {key: plain(part) for key, part in sorted(content.items())}
    if isinstance(content, list | tuple):
        return [plain(part) for part in content]
    return content.isoformat() if isinstance(content, date) else content
