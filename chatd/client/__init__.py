"""Programs for people who run or use a chatd."""
