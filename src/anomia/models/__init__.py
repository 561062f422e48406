"""Models under test: loading, fingerprints, chat templates."""
