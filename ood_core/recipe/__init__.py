"""Recipes as YAML with line numbers: inheritance, variants, overrides, building of plugins."""
