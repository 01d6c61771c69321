"""Backbone `timm`: any image model of timm by its name."""
