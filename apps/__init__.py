"""What it shows: one file each, defining `app()`."""
