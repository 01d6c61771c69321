"""Out-of-distribution detection on images; start with README.md in this folder."""
