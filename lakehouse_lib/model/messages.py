"""Messages of a change feed: the kinds that change no row, and how a change is numbered within its message."""

CONTROLS = {
    "tombstone": "the message marks that a key was deleted; the delete itself is a message of its own",
    "heartbeat": "the message only says that the connector is alive",
    "transaction_marker": "the message marks the beginning or end of a transaction",
    "schema_change": "the message changes a schema and no row",
    "logical_message": "the message was written to the source's log by an application; it changes no row",
    "bootstrap_marker": "the message marks the beginning or end of Maxwell's first copy of a table",
    "empty_message": "the message holds no row",
}
"""The kinds of messages that change no row, with an explanation: they are set aside, but do not count as rejected."""

CHANGES_OF_A_MESSAGE = 100_000
"""``_source_line`` of a change is the line of its message times this number, plus the index of the change in it."""


def line_of(place: int) -> int:
    """Return the line of the message that holds a change, from the ``_source_line`` of the change."""
    return place // CHANGES_OF_A_MESSAGE
