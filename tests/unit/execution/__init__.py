"""Tests of `fedsweep.execution`."""
