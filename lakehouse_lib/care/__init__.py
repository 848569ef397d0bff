"""What keeps a lakehouse well: health, maintenance, quarantine and its replay, going back to a version. It may
start runs."""
