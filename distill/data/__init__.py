"""Where texts come from: checked assets, and splits that share no sentence."""
