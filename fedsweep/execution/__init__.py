"""Execution: one attempt at a trial, and the looks at data, devices and packages before it."""
