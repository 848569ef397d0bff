"""``python -m lakehouse_lib`` is the ``lakehouse`` command."""

from lakehouse_lib.cli import command

command()
