"""SQL that a person types: read-only, and limited in rows, size and time."""
