"""Your own data: the layout of their folder, a survey of its files, and the faults in them."""

# Imports go one way: `layout` (no image is opened), `survey` (every file is read), `faults` and
# `findings` (what the records mean), `checking` (all of it, for a folder or a benchmark).
