"""Whole videos to `.cmfr` files and back, and weights files. Start at `Codec` in codec.py."""
