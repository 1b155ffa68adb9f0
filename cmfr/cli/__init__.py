"""The commands; what they use is imported when they run."""
