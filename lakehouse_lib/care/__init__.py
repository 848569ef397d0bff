"""What keeps a lakehouse healthy: health report, maintenance, quarantine and its replay, restoring a version. It may
start runs."""
