"""Other encoders, measured like our own codec."""
