"""Pretext task `mocov3`: contrastive learning with a momentum encoder."""
