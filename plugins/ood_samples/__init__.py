"""Small data sets that need no download: digits, patches of photographs, noise."""
