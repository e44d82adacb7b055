"""Eigen-segments of images, computed without labels, and how they refine label maps.

`spectral` builds and cuts the graph of an image's patches with the eigenvectors of `solvers`,
`source` takes segments from a network or from a folder, and `refinement` replaces the masks of any
label map by segments.
"""
