"""What a codec does and what it costs: pictures, tables, times, complexity."""
