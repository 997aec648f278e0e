"""Chaos: workers that are disturbed at random must give the results of an undisturbed worker."""
