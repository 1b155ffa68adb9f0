"""DCVC-DC and DCVC-FM: published codecs to compare with. Start at `DCVC._code` in inter.py."""
