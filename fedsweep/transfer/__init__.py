"""Whole databases: copy one, merge two, and check one."""
