"""A detector as one graph: backbone, scores and threshold in a file that runs without this framework.

    from ood_export.exporting import export

| module | what it is |
|---|---|
| `exporting` | `export`: trace, write, verify what was written, and only then give it its name |
| `graph` | a detector as a torch module from images to scores and decisions |
| `tracing` | that module as a graph; which scorer cannot be one, and why |
| `formats` | the files: ONNX, and torch's own |
| `description` | what stands in the file besides the graph: how images are to be shown, and what the outputs are |
| `verification` | whether the file says what the detector says |
"""
