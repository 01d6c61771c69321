"""From recipes to plans: sections, data, protocols, keys."""
