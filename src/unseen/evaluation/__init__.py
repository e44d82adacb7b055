"""Scoring segmenters on benchmarks.

entries.py: what is about to be scored, checked before torch is imported; comparison.py: several
methods and runs, one after the other; loop.py: one segmenter on one benchmark; protocols.py: what
it predicts beside the truth, for all classes at once or one query class an image.
"""
