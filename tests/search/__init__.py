"""Searching the best freeze round."""
