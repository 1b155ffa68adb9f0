"""Train from a YAML configuration: scripts/train.py CONFIG [key=value ...]. Resumes itself."""

import sys

from cmfr.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
