"""Training of any segmenter on the seen classes of a benchmark.

`loop` is the place to start reading: it holds the training from the first line to the last.
`batches` chooses and labels the images, `targets` makes from labels what the loss sees, `schedules`
has learning rates and parameter groups. `records`, with `state` and `curves`, writes what a run
folder keeps.
"""
