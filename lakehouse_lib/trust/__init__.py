"""Whether the data can be believed: checks and their results, profiles, anomalies. Nothing here changes a table."""
