"""The stage `index`: from a folder of image files to records and a list of what was left out."""
