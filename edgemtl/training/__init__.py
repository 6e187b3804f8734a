"""From a recipe to float weights."""
