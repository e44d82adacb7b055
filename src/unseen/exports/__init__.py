"""Label maps in the formats of other tools."""
