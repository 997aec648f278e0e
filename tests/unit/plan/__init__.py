"""Tests of `fedsweep.plan`."""
