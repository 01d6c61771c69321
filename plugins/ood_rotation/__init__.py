"""Pretext task `rotation`: tell by how many quarter turns an image was turned."""
