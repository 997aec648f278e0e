"""Notices: tell a person of events in a sweep, once, through a webhook."""
