"""Bronze, silver and gold: transformations from frames to outcomes, and what writes an outcome in one commit.
Nothing here decides when a table runs."""
