"""A detector as one graph: backbone, scores and threshold in a file that runs without this framework.

    from ood_export.exporting import export

| module | content |
|---|---|
| `exporting` | `export`: trace, write, verify, and only then rename the file to its name |
| `graph` | a detector as a torch module from images to scores and decisions; the metadata of its file |
| `tracing` | that module as a graph; scorers that cannot be traced, with reasons |
| `formats` | ONNX, and torch's own |
| `verification` | comparison of the graph with its detector |
"""
