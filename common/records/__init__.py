"""What a run leaves behind in its folder, and what a person sees while it works. Nothing here changes how it trains."""
