"""What to train: one file each, defining `recipe`."""
