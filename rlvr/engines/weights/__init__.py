"""The way of new weights to the engine, and the proof that they arrived."""
