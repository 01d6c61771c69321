"""Published data sets by name: how their files may lie, where they come from, under what licence."""
