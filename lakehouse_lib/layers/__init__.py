"""Bronze, silver and gold: transformations from frames to outcomes, and the code that commits an outcome.
Nothing here decides when a table runs."""
