"""`rlvr init`: a first recipe of your own."""
