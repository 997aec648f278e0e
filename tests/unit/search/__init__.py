"""Tests of the search of the best freeze round."""
