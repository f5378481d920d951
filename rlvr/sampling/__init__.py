"""Which prompts are asked, and how their responses become rewarded groups."""
