"""Steps and their records: what was done with what, what it left, and what it cost."""
