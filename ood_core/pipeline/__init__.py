"""The five stages - train, extract, fit, score, measure - and their dispatch."""
