"""What the campaign has tried, by kind."""

from collections import Counter

TRIED: Counter[str] = Counter()
