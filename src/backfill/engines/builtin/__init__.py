"""What the built-in engines do with a request: which members they honour, and what is put right before and after."""
