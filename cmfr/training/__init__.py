"""The training system: configuration -> batches -> stages -> a run directory.

Read `trainer.py` first; what a stage computes is in `stage.py`.
"""
