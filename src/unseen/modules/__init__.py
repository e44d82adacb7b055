"""Parts used by two methods or more."""
