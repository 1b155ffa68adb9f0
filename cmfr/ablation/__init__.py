"""Ablations: variants of one model, trained and measured alike, and their report."""
