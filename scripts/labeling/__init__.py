"""Behind label.py: what is tried, how much of it there is time for, and what the held-out labels say."""
