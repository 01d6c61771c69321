"""Images in files of your own: parquet, folders, lists, manifests, numpy arrays, tar shards."""
