"""`rlvr doctor`: whether this machine can run recipes, or a given one; a remedy per finding."""
