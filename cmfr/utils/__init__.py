"""What every package may use: errors, devices, signals, YAML, shipped files, versions."""
