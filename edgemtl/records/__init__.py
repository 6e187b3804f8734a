"""What is written down, and its words: recipes, runs, artifacts, the ledger, the contract of a target. No torch."""
