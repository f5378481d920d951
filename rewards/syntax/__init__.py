"""From text to a small tree: normalise, cut into tokens, parse. Evaluates nothing."""
