"""The content-addressed store of finished stages."""
