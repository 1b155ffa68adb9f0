"""Networks, no files: one package a family, and what drives their frames."""
