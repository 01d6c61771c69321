"""Images in files of your own: Hugging Face style parquet, or folders of pictures."""
