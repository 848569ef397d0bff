"""From delivered files to decoded records: which files are new, how each format is read, what a change message
means. No table is written here."""
