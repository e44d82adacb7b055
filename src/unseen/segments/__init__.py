"""Eigen-segments of images, computed without class names and without labels.

`spectral` cuts the graph of an image's patches, `source` takes segments from a network or from a
folder.
"""
