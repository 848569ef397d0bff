"""Whether the data can be trusted: checks and their results, profiles, anomalies. Nothing here changes a table."""
