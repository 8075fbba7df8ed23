"""What happens around an experiment's `main`: composing its settings, preparing its data, recording."""
