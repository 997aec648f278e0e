"""Tests of `fedsweep.notify`."""
