"""Files of a report: page, LaTeX, Markdown, CSV, JSON."""
