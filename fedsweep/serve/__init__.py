"""The page: what runs, waits, fails and was measured, live and read-only."""
