"""Models as files: which are known by name, how they get here, what is in them and which engine can run them."""
