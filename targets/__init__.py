"""Where it runs: one file each, defining `target`."""
