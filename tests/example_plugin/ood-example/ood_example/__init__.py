"""A scorer and a backbone for ood-framework, as an example of a plugin package."""
