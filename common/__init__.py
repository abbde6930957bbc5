"""What all the methods share. Nothing here knows the name of a method."""
