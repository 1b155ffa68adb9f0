"""Rate and distortion: test sets, measurements, records, BD-rates, results of others."""
