"""From a run to artifacts, and the proof that an artifact computes what was trained."""
