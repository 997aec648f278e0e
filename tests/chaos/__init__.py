"""Chaos: real workers on real trials, disturbed at random, must give what one undisturbed gives."""
