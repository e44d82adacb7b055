"""Data sets, benchmarks, augmentation, and the embedded world. Knows nothing of models."""
