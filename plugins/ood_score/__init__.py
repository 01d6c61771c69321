"""New images at the command line: named, scored in constant memory, and written as rows; the rows of `ood score`.

| module | what it is |
|---|---|
| `paths` | files, folders, globs and lists on stdin, to paths in a fixed order; nothing is kept |
| `rows` | an image's scores and decision, and the columns that show them |
| `passes` | paths to rows, batch after batch |
| `formats` | rows as CSV and JSON Lines, and back |
| `table` | rows for a person, at a terminal |
| `kept` | the file of `--out`: goes on where it was interrupted |
| `tally` | how many images there were, of which kinds |
| `explained` | the page of `--explain`: the images that are most OOD beside the nearest ID images |
"""
