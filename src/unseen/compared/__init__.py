"""Reports that were made before, side by side: nothing is computed again but their differences."""
