"""The only doors to other people's networks."""
