"""Data sets, benchmarks, augmentation, and the synthetic scenes of Doodles."""

# Nothing here knows of models: a benchmark can be opened, checked and shown without one.
