"""The part `scale`: what several workers share, and what it costs."""
