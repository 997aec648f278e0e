"""Tests of `fedsweep.plans`."""
