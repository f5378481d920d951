"""The policy: a language model that scores tokens, and what is trained around it."""
