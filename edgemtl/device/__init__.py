"""The device side: runs, scores, measures and shows artifacts. No torch."""
