"""A complete lakehouse layer: landing to bronze, silver and gold Delta tables."""
