"""The tables and where their data comes from: catalog, lineage, trace, versions. Read-only: nothing here changes a
table's rows."""
