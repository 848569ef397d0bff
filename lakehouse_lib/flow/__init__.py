"""A run: which tables, in which order, one at a time on a machine, and the books that are kept of it."""
