"""Notices: report events of a sweep to people through webhooks, each event once."""
