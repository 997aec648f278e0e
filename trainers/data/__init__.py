"""Data sets: their files, their decoding, their cache, and the batches cut from them."""
