"""Messages of a change feed: those that change no row, and the place of a change in its message."""

CONTROLS = {
    "tombstone": "the message marks that a key was deleted; the delete itself is a message of its own",
    "heartbeat": "the message only says that the connector is alive",
    "transaction_marker": "the message marks the begin or end of a transaction",
    "schema_change": "the message changes a schema and no row",
    "logical_message": "the message was written to the source's log by an application; it changes no row",
    "bootstrap_marker": "the message marks the begin or end of Maxwell's first copy of a table",
    "empty_message": "the message holds no row",
}
"""What a message is that changes no row: no reject, and set aside all the same."""

CHANGES_OF_A_MESSAGE = 100_000
"""``_source_line`` of a change is the line of its message times this, plus the place of the change in the message."""


def line_of(place: int) -> int:
    """The line of the message that a change came in."""
    return place // CHANGES_OF_A_MESSAGE
