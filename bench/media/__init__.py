"""How pictures and clips are fetched, checked and worked through."""
