"""Published codecs to compare with, written on this project's building blocks."""
