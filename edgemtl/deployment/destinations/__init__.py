"""Where `edgemtl deploy` brings an artifact: one file for each place, named as users type it; see deploy.py."""
