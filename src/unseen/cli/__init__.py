"""The command line: every verb parses, calls a function of the package, and prints.

Whatever is heavy is imported inside the verbs, after what is cheap has been checked, so that help
and refusals answer at once.
"""
