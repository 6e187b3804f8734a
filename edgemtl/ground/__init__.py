"""What everything else stands on: files, errors, the terminal, folders as registries. Imports nothing else of ours."""
