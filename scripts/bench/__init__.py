"""Behind benchmark.py: what it measures (measures), plain mode (plain), and two programs that it starts."""
