"""Tests of `fedsweep.worker`."""
