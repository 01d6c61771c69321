"""A detector as one graph: backbone, scores and threshold in a file that runs without this framework.

    from ood_export.exporting import export

| module | content |
|---|---|
| `exporting` | `export`: trace, write, verify, and only then rename the file; scorers that are refused, with reasons |
| `graph` | a detector as a torch module from images to scores and decisions; the metadata of its file |
| `formats` | ONNX, and torch's own |
"""
