"""What there is and where it comes from: catalog, lineage, trace, versions. It reads; nothing here changes a
table's rows."""
