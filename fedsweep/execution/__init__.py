"""Execution: one attempt at a trial, and the checks of data, devices and packages before it."""
