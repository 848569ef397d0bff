"""A run: which tables it covers, in which order, one run at a time per machine, and the records it leaves."""
