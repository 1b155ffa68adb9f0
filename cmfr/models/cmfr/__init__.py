"""CMFR: the codec of the paper. Start at `CMFR._code` in inter.py."""
